//! A real Prometheus scrapes the gateway while MOVEs, failures, logins and TLS go through it. promtool has nothing to say
//! against the metrics and the alerts, and all that the dashboard and the alerts ask for is there.

use crate::client::{Client, PATIENCE};
use crate::dashboard::{panels, queries, variables};
use crate::gateway::Gateway;
use crate::peer::Authority;
use crate::server::{Kind, POLL, Process, Server, free_address, tail};
use crate::{clients, seed};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A running Prometheus.
pub struct Prometheus {
    address: SocketAddr,
    begun: u64,
    log: PathBuf,
}

impl Prometheus {
    /// Starts it in a folder and waits until it has scraped `target`. It ends with the process.
    fn start(folder: &Path, target: SocketAddr) -> (Process, Prometheus) {
        let address = free_address();
        let mut command = Command::new("bash");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/prometheus.sh"));
        command.arg(folder).arg(address.port().to_string()).arg(target.to_string());
        let log = folder.join("server.log");
        (Process::start(command, &log), Prometheus::running_at(address, log))
    }

    /// One that was started there, and writes to this log, once it has scraped its target.
    pub fn running_at(address: SocketAddr, log: PathBuf) -> Prometheus {
        let prometheus = Prometheus { address, begun: now(), log };
        prometheus.until("a first scrape", || prometheus.value("up").filter(|up| *up == 1.0));
        prometheus
    }

    /// The `data` of an answer of its API: nothing if it does not answer.
    ///
    /// # Panics
    /// If it answers with an error.
    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        let page = self.page(&format!("/api/v1/{path}?{}", parameters.join("&")))?;
        let (_, body) = page.split_once("\r\n\r\n")?;
        let answer: Value = serde_json::from_str(body).ok()?;
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        Some(answer["data"].clone())
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // 1.0: the answer comes in one piece, and the end of the connection is its end.
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// What a query says now, if it is one number.
    fn value(&self, query: &str) -> Option<f64> {
        let data = self.get("query", &[("query", query)])?;
        data["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// Whether a query says anything now.
    fn knows(&self, selector: &str) -> bool {
        let data = self.get("query", &[("query", selector)]);
        data.is_some_and(|data| data["result"].as_array().is_some_and(|series| !series.is_empty()))
    }

    /// Whether a panel with this query shows anything: a number for one moment since the beginning.
    fn shows(&self, query: &str) -> bool {
        let (begun, now) = (self.begun.to_string(), now().to_string());
        let range = [("query", query), ("start", &begun), ("end", &now), ("step", "1")];
        let data = self.get("query_range", &range).unwrap_or_default();
        let series = data["result"].as_array().into_iter().flatten();
        let values = series.flat_map(|series| series["values"].as_array().into_iter().flatten());
        values.filter_map(|value| value[1].as_str()).any(|value| value != "NaN")
    }

    /// The queries of the alerts, once each has been evaluated without an error.
    fn alerts(&self) -> Vec<String> {
        let rules = self.until("evaluated alerts", || {
            let rules = self.get("rules", &[])?["groups"][0]["rules"].as_array()?.clone();
            rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
        });
        rules.iter().map(|rule| rule["query"].as_str().expect("a query").to_owned()).collect()
    }

    fn until<T>(&self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "no {what}; the tail of its log:\n{}", tail(&self.log));
            sleep(5 * POLL);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// For a URL.
fn percent(text: &str) -> String {
    text.bytes().map(|octet| format!("%{octet:02X}")).collect()
}

/// As Grafana fills in a query of the dashboard.
fn filled(query: &str) -> String {
    let values = [("$__rate_interval", "1m"), ("$__range", "1h"), ("$job", ".+"), ("$instance", ".+")];
    let query = values.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
    assert!(!query.contains('$'), "an unknown variable: {query}");
    query
}

/// What an alert looks at: each metric with what its labels must be.
fn selectors(query: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let starts = query.match_indices(is_name).map(|(at, _)| at);
    let starts = starts.filter(|at| !query[..*at].ends_with(is_name));
    let ours = ["imapmove_", "process_", "up{"];
    starts
        .map(|at| &query[at..])
        .filter(|rest| ours.iter().any(|start| rest.starts_with(start)))
        .map(|rest| {
            let name = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            let labels = rest[name..].starts_with('{').then(|| rest.find('}')).flatten();
            &rest[..labels.map_or(name, |end| end + 1)]
        })
        .collect()
}

#[test]
fn dashboard_and_alerts_find_what_they_ask_for() {
    let (server, authority) = (Server::start(Kind::DOVECOT), Authority::new());
    let journal = tempfile::tempdir().expect("a folder");
    let (identity, tls) = (authority.issue("127.0.0.1"), free_address());
    let settings = [
        ("--listen-tls", &*tls.to_string()),
        ("--tls-cert", &identity.cert),
        ("--tls-key", &identity.key),
        ("--journal", journal.path().to_str().expect("text")),
    ];
    let gateway = Gateway::start_with(server.address, &settings);
    let folder = tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder");
    let (_process, prometheus) = Prometheus::start(folder.path(), gateway.admin);
    let [moved, refused, logins, bad_logins, handshakes] = prometheus.until("counts", || counts(&prometheus));

    seed(&server, 6);
    // Two MOVEs, and one to a mailbox that does not exist.
    clients::move_with_imaplib(tls, Kind::DOVECOT, &["implicit", &authority.file()]);
    let reply = Client::connect(gateway.address).command("LOGIN alice looking-glass");
    assert!(reply.status().starts_with("NO "), "{}", reply.status());
    let now = [moved + 2.0, refused + 1.0, logins + 1.0, bad_logins + 1.0, handshakes + 1.0];
    prometheus.until(&format!("counts {now:?}"), || counts(&prometheus).filter(|counts| *counts == now));
    check_dashboard(&prometheus);
    check_alerts(&prometheus);
    check_with_promtool(folder.path(), &gateway);
}

/// MOVEs, refused MOVEs, logins, refused logins, clients in TLS.
fn counts(prometheus: &Prometheus) -> Option<[f64; 5]> {
    let sum = |series| prometheus.value(&format!("sum({series})"));
    Some([
        sum("imapmove_moves_total{result=\"moved\"}")?,
        sum("imapmove_moves_total{result=\"refused\"}")?,
        sum("imapmove_logins_total{result=\"ok\"}")?,
        sum("imapmove_logins_total{result=\"refused\"}")?,
        sum("imapmove_tls_handshakes_total{side=\"client\",result=\"ok\"}")?,
    ])
}

/// Each query of the dashboard finds something.
pub fn check_dashboard(prometheus: &Prometheus) {
    for variable in variables().iter().filter(|variable| variable["type"] == "query") {
        let query = filled(variable["query"]["query"].as_str().expect("a query"));
        let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (metric, label) =
            arguments.and_then(|both| both.rsplit_once(", ")).expect("a metric and a label");
        let values = prometheus.get(&format!("label/{label}/values"), &[("match[]", metric)]);
        assert!(values.is_some_and(|values| values[0].is_string()), "{query}");
    }
    for panel in panels() {
        for query in queries(&panel) {
            let what = format!("data for {}: {query}", panel["title"]);
            prometheus.until(&what, || prometheus.shows(&filled(query)).then_some(()));
        }
    }
}

/// Each alert can be evaluated, and each metric in it is there.
pub fn check_alerts(prometheus: &Prometheus) {
    let alerts = prometheus.alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        assert!(!selectors(alert).is_empty(), "{alert}");
        for selector in selectors(alert) {
            prometheus.until(&format!("{selector} of {alert}"), || prometheus.knows(selector).then_some(()));
        }
    }
}

fn check_with_promtool(folder: &Path, gateway: &Gateway) {
    let page = folder.join("metrics");
    std::fs::write(&page, gateway.metrics()).expect("writes");
    promtool(folder, &["check", "metrics"], open(&page));
    promtool(folder, &["check", "rules", "alerts.yaml"], Stdio::null());
    promtool(folder, &["test", "rules", "alerts.test.yaml"], Stdio::null());
}

/// `promtool`, which must have nothing to complain about.
fn promtool(folder: &Path, arguments: &[&str], input: Stdio) {
    let mut promtool = Command::new(folder.join("promtool"));
    promtool.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/grafana")).stdin(input);
    let output = promtool.output().expect("it is there when Prometheus runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

fn open(path: &Path) -> Stdio {
    File::open(path).expect("was just written").into()
}
