//! The dashboard and the alerts in `grafana/` are about metrics that the program has, and each alert is explained in the
//! README. That the queries return data is shown on a real Prometheus, in `tests/servers/prometheus.rs`.

#[path = "../support/dashboard.rs"]
mod dashboard;

use dashboard::{DASHBOARD, dashboard, panels, queries, variables};
use imapmove::metrics::Metrics;
use serde_json::Value;
use std::collections::BTreeSet;

const README: &str = include_str!("../../README.md");
const ALERTS: &str = include_str!("../../grafana/alerts.yaml");
const ALERT_TESTS: &str = include_str!("../../grafana/alerts.test.yaml");

/// What may be asked for: the program's metrics, and of a histogram its parts.
fn series() -> BTreeSet<String> {
    let page = String::from_utf8(Metrics::default().text()).expect("text");
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds
        .flat_map(|(name, kind)| match kind {
            "histogram" => ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec(),
            _ => vec![name.to_owned()],
        })
        .collect()
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("imapmove_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// The rules, each from its name to the next one.
fn alerts() -> Vec<(&'static str, &'static str)> {
    ALERTS.split("- alert: ").skip(1).map(|rule| rule.split_once('\n').expect("more than a name")).collect()
}

#[test]
fn what_is_asked_for_exists() {
    let series = series();
    for text in [ALERTS, ALERT_TESTS, DASHBOARD] {
        let named = named(text);
        let unknown: Vec<_> = named.difference(&series).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn the_dashboard_shows_each_metric_of_ours() {
    let parts = ["_bucket", "_sum", "_count"];
    let whole =
        |name: &String| parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned();
    let shown: BTreeSet<String> = named(DASHBOARD).iter().map(whole).collect();
    let ours: BTreeSet<String> =
        series().iter().map(whole).filter(|name| name.starts_with("imapmove_")).collect();
    let hidden: Vec<_> = ours.difference(&shown).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_no_other_is_there() {
    let (_, runbook) = README.split_once("\n## Runbook\n").expect("a runbook");
    let runbook = runbook.split("\n## ").next().expect("a first piece");
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let names: Vec<&str> = alerts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(sections, names, "in the same order");
}

#[test]
fn each_alert_says_what_an_operator_needs() {
    for (name, rule) in alerts() {
        let fields = ["expr:", "for:", "severity:", "summary:", "description:"];
        for field in fields.into_iter().chain([&*format!("runbook_url: README.md#{}", name.to_lowercase())]) {
            let given = rule.lines().any(|line| line.trim_start().starts_with(field));
            assert!(given, "{name} without {field}");
        }
    }
}

/// `promtool test rules` says whether they are right: see `tests/servers/prometheus.rs`.
#[test]
fn each_alert_is_tested_to_fire_and_not_to_fire() {
    for (name, _) in alerts() {
        let quiet = ALERT_TESTS
            .lines()
            .any(|line| line.contains(&format!("alertname: {name},")) && line.ends_with("exp_alerts: [] }"));
        let fires = ALERT_TESTS.split(&format!("- alertname: {name}\n")).nth(1);
        let fires =
            fires.is_some_and(|rest| rest.split("exp_labels").next().is_some_and(|s| s.lines().count() == 3));
        assert!(quiet && fires, "{name}: is tested to be quiet: {quiet}, to fire: {fires}");
    }
}

#[test]
fn the_dashboard_has_its_rows() {
    let panels = panels();
    let rows: Vec<&str> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .filter_map(|row| row["title"].as_str())
        .collect();
    let expected = [
        "Overview",
        "MOVE",
        "Connections and logins",
        "Upstream",
        "TLS",
        "Limits and errors",
        "Journal",
        "Process",
    ];
    assert_eq!(rows, expected);
}

/// Whoever imports it chooses the data source.
#[test]
fn no_data_source_is_fixed() {
    assert_eq!(variables()[0]["type"], "datasource");
    let mut found = Vec::new();
    sources(&dashboard(), &mut found);
    assert!(found.len() > 40);
    let fixed: Vec<_> = found.iter().filter(|source| source["uid"] != "${datasource}").collect();
    assert!(fixed.is_empty(), "{fixed:?}");
}

/// Every `datasource` that a value holds.
fn sources(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("datasource").cloned());
            fields.values().for_each(|field| sources(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| sources(item, found)),
        _ => {}
    }
}

#[test]
fn each_panel_has_a_unit_a_query_for_the_chosen_instances_and_a_place_of_its_own() {
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: an id that another panel has");
        for place in places(&panel) {
            assert!(place.0 < 24 && taken.insert(place), "{title}: over another panel, or outside");
        }
        if panel["type"] == "row" {
            continue;
        }
        let units = [&panel["fieldConfig"]["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
        assert!(units.iter().any(|unit| unit.is_string()), "{title}: no unit");
        assert!(!queries(&panel).is_empty(), "{title}: no query");
        for query in queries(&panel) {
            check(title, query);
        }
    }
}

/// The fields of the grid that a panel covers.
fn places(panel: &Value) -> Vec<(u64, u64)> {
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
    (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))).collect()
}

fn check(title: &str, query: &str) {
    let chosen = query.matches("{job=~\"$job\", instance=~\"$instance\"").count();
    assert_eq!(query.matches('{').count(), chosen, "{title}: {query}");
    let metrics = query.matches("imapmove_").count() + query.matches("process_").count();
    assert_eq!(metrics, chosen, "{title}: {query}");
    let ranges = query.matches("[$__rate_interval]").count() + query.matches("[$__range]").count();
    assert_eq!(query.matches('[').count(), ranges, "{title}: a range of its own: {query}");
}
