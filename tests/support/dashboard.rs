//! The dashboard in `grafana/`, as Grafana reads it.

use serde_json::Value;

/// Its file.
pub const DASHBOARD: &str = include_str!("../../grafana/dashboard.json");

/// All of it.
pub fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("JSON")
}

/// Its panels, rows among them.
pub fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().expect("panels").clone()
}

/// Each query of a panel.
pub fn queries(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    targets.map(|target| target["expr"].as_str().expect("a query")).collect()
}

/// Its variables.
pub fn variables() -> Vec<Value> {
    dashboard()["templating"]["list"].as_array().expect("variables").clone()
}
