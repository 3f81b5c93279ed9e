// What the dashboard may be, by Grafana's own types: `check` puts the dashboard behind it.
import type { Dashboard as Whole, FieldConfigSource, GraphFieldConfig, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** As it stands in JSON: the value of an enum and not its name, and no fields but the known ones. */
type Json<T> = T extends string ? `${T}` : T extends number ? number : T extends boolean | null | undefined ? T
  : T extends (infer Item)[] ? Json<Item>[] : { [Key in keyof T as string extends Key ? never : Key]: Json<T[Key]> };

/** A query for Prometheus, which has no type of its own any more. */
type Query = { refId: string; expr: string; legendFormat: string; format?: 'heatmap' };
type Source = { type: 'prometheus'; uid: '${datasource}' };

type Of<Type extends string, Options, Custom> = Omit<Json<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'> & {
  type: Type; title: string; datasource: Source; targets: [Query, ...Query[]];
  options: Json<Options>; fieldConfig: Fields<Custom>;
};
type Fields<Custom> = Omit<Json<FieldConfigSource>, 'defaults'> & { defaults: Defaults<Custom> };
type Defaults<Custom> = Omit<Json<FieldConfigSource['defaults']>, 'custom' | 'mappings'> & {
  custom?: Json<Custom>; mappings?: { type: 'value'; options: Record<string, { text: string; index: number }> }[];
};

type Row = Omit<Json<RowPanel>, 'panels'> & { panels: [] };
/** Grafana gives a stat that says less what is missing. */
type Shown = Of<'timeseries', timeseries.Options, GraphFieldConfig> | Of<'stat', Partial<stat.Options>, {}>
  | Of<'heatmap', heatmap.Options, heatmap.FieldConfig> | Row;
/** The query of a variable is Prometheus's own affair. */
type Variable = Omit<Json<NonNullable<NonNullable<Whole['templating']>['list']>[number]>, 'query' | 'current'> & {
  definition?: string; query: string | { refId: string; query: string }; current: { text?: string[]; value?: string[] };
};
type Dashboard = Omit<Json<Whole>, 'panels' | 'templating'> & { panels: Shown[]; templating: { list: Variable[] } };

export const dashboard: Dashboard =
