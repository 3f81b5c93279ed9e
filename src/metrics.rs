//! The counters. No label ever holds a user, a mailbox or an address, and every series is there, at 0, from the start.

use crate::admission::Full;
use crate::imap::{Breach, Cause, Limit, Notice, Outcome, SASL, Side, Stage, Strategy, Verb};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts,
};
use prometheus::{Registry, TextEncoder};
use std::time::Duration;

const SIDES: &[&str] = &["client", "upstream"];
const RESULTS: &[&str] = &["ok", "failed"];
const OUTCOMES: &[&str] = &["moved", "invalid", "refused", "incomplete", "undone", "upstream_lost"];
const DIRECTIONS: &[&str] = &["in", "out"];
/// The names of those who carry out a MOVE.
const STRATEGIES: [&str; 2] = ["copy", "native"];
/// `damaged` counts files, the others MOVEs.
const RECOVERIES: &[&str] = &["finished", "stale", "later", "expired", "unproven", "undo", "damaged"];
/// From one round trip on a local network to a large MOVE on a slow server.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// From a fast disk to a hanging one.
const SYNC_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Every counter of one gateway.
pub struct Metrics {
    registry: Registry,
    /// Connections accepted, by listener.
    pub connections: IntCounterVec,
    /// Connections open now.
    pub connections_active: IntGauge,
    connections_rejected: IntCounterVec,
    /// Limits that were met.
    pub limit_hits: IntCounterVec,
    /// Attempts to reach the upstream, TLS from the first octet included.
    pub upstream_connects: IntCounterVec,
    /// TLS handshakes, by side.
    pub tls_handshakes: IntCounterVec,
    /// 1 while shutting down.
    pub draining: IntGauge,
    /// 0 after a SIGHUP whose settings or certificates could not be used.
    pub config_last_reload_successful: IntGauge,
    /// Until when the clients' certificate is valid, in seconds since 1970.
    pub certificate_not_after: Gauge,
    /// Sessions that ended in a panic.
    pub panics: IntCounter,
    /// How long the upstream took to accept a connection, TLS from the first octet included.
    pub upstream_connect_duration: Histogram,
    /// Octets read from each side, and written to it; inside TLS, where there is TLS. By [`Side`].
    pub bytes: [Traffic; 2],
    logins: IntCounterVec,
    /// By the index of a [`Verb`].
    commands: Vec<IntCounter>,
    moves: IntCounterVec,
    move_messages: IntCounter,
    move_left_behind: IntCounterVec,
    undos: IntCounterVec,
    move_duration: HistogramVec,
    move_stage_duration: HistogramVec,
    /// MOVEs that run now.
    pub moves_in_flight: IntGauge,
    protocol_errors: IntCounterVec,
    /// MOVEs found in the journal, by what came of them.
    pub recoveries: IntCounterVec,
    /// MOVEs in the journal whose session is gone.
    pub journal_pending: IntGauge,
    /// Each wait for the journal's disk.
    pub journal_syncs: Histogram,
    /// What the journal could not write, or not answer.
    pub journal_errors: IntCounter,
}

/// Octets of one side.
pub struct Traffic {
    /// Read from it.
    pub read: IntCounter,
    /// Written to it.
    pub written: IntCounter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let registry = Registry::new();
        let of = &registry;
        let build = IntGaugeVec::new(Opts::new("imapmove_build_info", "Always 1."), &["version"]);
        let build = register(of, build);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        of.register(Box::new(ProcessCollector::for_self())).expect("the names are distinct");
        let listeners: &[&str] = &["plain", "tls"];
        Metrics {
            connections: counters(
                of,
                "connections_total",
                "Connections accepted.",
                &[("listener", listeners)],
            ),
            connections_active: gauge(of, "connections_active", "Connections open now."),
            connections_rejected: counters(
                of,
                "connections_rejected_total",
                "Connections turned away.",
                &[("reason", &Full::ALL.map(Full::name))],
            ),
            limit_hits: counters(
                of,
                "limit_hits_total",
                "Limits that were met.",
                &[("limit", &[&Full::ALL.map(Full::name)[..], &Limit::ALL.map(Limit::name)].concat())],
            ),
            upstream_connects: counters(
                of,
                "upstream_connects_total",
                "Attempts to reach the upstream.",
                &[("result", RESULTS)],
            ),
            tls_handshakes: counters(
                of,
                "tls_handshakes_total",
                "TLS handshakes.",
                &[("side", SIDES), ("result", RESULTS)],
            ),
            draining: gauge(of, "draining", "1 while shutting down."),
            config_last_reload_successful: {
                let help = "0 after a SIGHUP whose settings or certificates could not be used.";
                let gauge = gauge(of, "config_last_reload_successful", help);
                gauge.set(1);
                gauge
            },
            certificate_not_after: {
                let help =
                    "Until when the clients' certificate is valid, in seconds since 1970; 0: there is none.";
                register(of, Gauge::new("imapmove_tls_certificate_not_after_timestamp_seconds", help))
            },
            panics: counter(of, "panics_total", "Sessions that ended in a panic."),
            upstream_connect_duration: histogram(
                of,
                "upstream_connect_duration_seconds",
                "Attempts to reach the upstream, until it has accepted the connection or not.",
                SECONDS,
            ),
            bytes: traffic(of),
            logins: counters(
                of,
                "logins_total",
                "Answers to LOGIN and AUTHENTICATE.",
                &[("mechanism", &SASL), ("result", &["ok", "refused"])],
            ),
            commands: commands(of),
            moves: counters(
                of,
                "moves_total",
                "MOVEs that have their tagged reply: carried out by the gateway (copy) or by the upstream (native).",
                &[("strategy", &STRATEGIES), ("result", OUTCOMES)],
            ),
            move_messages: counter(of, "move_messages_total", "Messages moved by the gateway."),
            move_left_behind: counters(
                of,
                "move_left_behind_total",
                "Messages that are in both mailboxes, or may be, after a MOVE.",
                &[("stage", &Stage::ALL.map(Stage::name)), ("cause", &Cause::ALL.map(Cause::name))],
            ),
            undos: counters(
                of,
                "undos_total",
                "MOVEs of which a part had to be undone: ok, no message of it is in both mailboxes.",
                &[("result", RESULTS)],
            ),
            move_duration: histograms(
                of,
                "move_duration_seconds",
                "From a MOVE to its tagged reply.",
                ("strategy", &STRATEGIES),
            ),
            move_stage_duration: histograms(
                of,
                "move_stage_duration_seconds",
                "What of a MOVE took how long.",
                ("stage", &Stage::ALL.map(Stage::name)),
            ),
            moves_in_flight: gauge(of, "moves_in_flight", "MOVEs that run now."),
            protocol_errors: counters(
                of,
                "protocol_errors_total",
                "Breaches of the protocol, by whose they are.",
                &[("side", SIDES), ("kind", &Breach::ALL.map(Breach::name))],
            ),
            recoveries: counters(
                of,
                "recoveries_total",
                "MOVEs found unfinished in the journal, by what came of them; and damaged files.",
                &[("result", RECOVERIES)],
            ),
            journal_pending: gauge(of, "journal_pending", "MOVEs in the journal whose session is gone."),
            journal_syncs: histogram(
                of,
                "journal_sync_duration_seconds",
                "Each wait of the journal for its disk.",
                SYNC_SECONDS,
            ),
            journal_errors: counter(
                of,
                "journal_errors_total",
                "What the journal could not write, or not answer.",
            ),
            registry,
        }
    }
}

impl Metrics {
    /// Counts what a session has told.
    pub fn count(&self, notice: &Notice) {
        match notice {
            Notice::Login { accepted, mechanism } => {
                let result = if *accepted { "ok" } else { "refused" };
                self.logins.with_label_values(&[*mechanism, result]).inc();
            }
            Notice::Command(verb) => self.commands[verb.index()].inc(),
            Notice::MoveStarted => self.moves_in_flight.inc(),
            Notice::MoveEnded { outcome, moved, left_behind, took, stage, cause } => {
                self.moves_in_flight.dec();
                self.moved(Strategy::Copy, *outcome, *took);
                self.move_messages.inc_by((*moved).into());
                let left = self.move_left_behind.with_label_values(&[stage.name(), cause.name()]);
                left.inc_by((*left_behind).into());
            }
            Notice::NativeMove { accepted, took } => {
                let outcome = if *accepted { Outcome::Moved } else { Outcome::Refused };
                self.moved(Strategy::Native, outcome, *took);
            }
            Notice::Stage { stage, took } => {
                self.move_stage_duration.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
            }
            Notice::Undo { whole } => {
                self.undos.with_label_values(&[RESULTS[usize::from(!whole)]]).inc();
            }
            Notice::ProtocolError { side, breach } => {
                self.protocol_errors.with_label_values(&[side_name(*side), breach.name()]).inc();
            }
            Notice::LimitMet(limit) => self.limit_hits.with_label_values(&[limit.name()]).inc(),
            _ => {}
        }
    }

    fn moved(&self, strategy: Strategy, outcome: Outcome, took: Duration) {
        self.moves.with_label_values(&[strategy.name(), outcome_name(outcome)]).inc();
        self.move_duration.with_label_values(&[strategy.name()]).observe(took.as_secs_f64());
    }

    /// Counts a connection for which there was no room.
    pub fn turned_away(&self, full: Full) {
        self.connections_rejected.with_label_values(&[full.name()]).inc();
        self.limit_hits.with_label_values(&[full.name()]).inc();
    }

    /// Counts an attempt: `upstream_connects`, `tls_handshakes`.
    pub fn tried<T, E>(&self, counters: &IntCounterVec, labels: &[&str], result: &Result<T, E>) {
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        counters.with_label_values(&[labels, &[outcome]].concat()).inc();
    }

    /// All of it in Prometheus's text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("what was registered can be encoded");
        text
    }
}

/// The name of a side in labels and logs.
pub fn side_name(side: Side) -> &'static str {
    SIDES[side as usize]
}

/// The name of an outcome in labels and logs.
pub fn outcome_name(outcome: Outcome) -> &'static str {
    OUTCOMES[outcome as usize]
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("the names and labels here are legal");
    registry.register(Box::new(collector.clone())).expect("the names here are distinct");
    collector
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(format!("imapmove_{name}"), help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(format!("imapmove_{name}"), help))
}

/// Octets, by side and direction.
fn traffic(registry: &Registry) -> [Traffic; 2] {
    let help = "Octets read from a side and written to it, inside TLS where there is TLS.";
    let labels: &[(&str, &[&str])] = &[("side", SIDES), ("direction", DIRECTIONS)];
    let counters = counters(registry, "bytes_total", help, labels);
    [Side::Client, Side::Upstream].map(|side| {
        let [read, written] = [0, 1].map(|i| counters.with_label_values(&[side_name(side), DIRECTIONS[i]]));
        Traffic { read, written }
    })
}

/// A counter for each verb, and for all others.
fn commands(registry: &Registry) -> Vec<IntCounter> {
    let names = [&Verb::NAMES[..], &[Verb::OTHER]].concat();
    let help = "Commands of clients.";
    let counters = counters(registry, "commands_total", help, &[("command", &names)]);
    names.iter().map(|name| counters.with_label_values(&[name])).collect()
}

/// One for each value of a label.
fn histograms(registry: &Registry, name: &str, help: &str, label: (&str, &[&str])) -> HistogramVec {
    let options = HistogramOpts::new(format!("imapmove_{name}"), help).buckets(SECONDS.to_vec());
    let made = register(registry, HistogramVec::new(options, &[label.0]));
    label.1.iter().for_each(|value| drop(made.with_label_values(&[*value])));
    made
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(format!("imapmove_{name}"), help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options))
}

/// Counters for every combination of the labels' values, each at 0.
fn counters(registry: &Registry, name: &str, help: &str, labels: &[(&str, &[&str])]) -> IntCounterVec {
    let names: Vec<&str> = labels.iter().map(|(label, _)| *label).collect();
    let made = IntCounterVec::new(Opts::new(format!("imapmove_{name}"), help), &names);
    let counters = register(registry, made);
    let mut series: Vec<Vec<&str>> = vec![Vec::new()];
    for (_, values) in labels {
        series = series
            .iter()
            .flat_map(|start| values.iter().map(|v| [start.as_slice(), &[*v]].concat()))
            .collect();
    }
    for values in series {
        counters.with_label_values(&values);
    }
    counters
}
