// Whether the Prometheus Operator takes its manifests, which `run` puts behind this. By its types no field may be unknown,
// which the compiler sees; by the schemas of its CRDs a value must look right, which shows when this runs.
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import type { IPodMonitor, IPrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

function look(manifests: (IPodMonitor | IPrometheusRule)[]) {
  for (const manifest of manifests) {
    (manifest.kind === "PodMonitor" ? new PodMonitor(manifest) : new PrometheusRule(manifest)).validate();
  }
  if (manifests.length !== 2) throw new Error(`${manifests.length} manifests`);
  console.log("monitoring.yaml: 2 manifests, Prometheus Operator");
}

look(
