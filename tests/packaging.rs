//! What `docker/` and the packages say to the system fits what the program does: how long its end takes, its settings,
//! its ports, its user.

use imapmove::config::{self, Config, TABLE};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For the goodbye to sessions that are cut (`LAST_WORDS`) and the journal's disk (`LAST_SYNC`), and some.
const LAST_THINGS: Duration = Duration::from_secs(10);
/// For the end of an old server that ends after the gateway.
const SERVERS_END: Duration = Duration::from_secs(10);

/// All files below `docker`, with their text.
fn files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("docker")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push((path.clone(), fs::read_to_string(&path).expect("text"))),
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands behind `key` in lines that begin with it.
fn values<'a>(text: &'a str, key: &'a str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key))
        .map(str::trim)
        .collect()
}

fn seconds(text: &str) -> Duration {
    let number = text.trim_end_matches('s').parse();
    Duration::from_secs(number.unwrap_or_else(|e| panic!("{text:?}: {e}")))
}

/// How long the gateway may take to end, by the settings' defaults. Nothing here sets others.
fn end() -> Duration {
    let config = Config::with(&[("upstream", "127.0.0.1:143")]).expect("good settings");
    config.drain_grace + config.drain_deadline + LAST_THINGS
}

#[test]
fn nothing_sets_another_drain() {
    for (path, text) in files() {
        let text = text.to_lowercase().replace('_', "-");
        let sets = text.lines().find(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.contains("imapmove-drain-") || line.contains("--drain") || line.starts_with("drain-")
        });
        assert_eq!(sets, None, "{}", path.display());
    }
}

/// Whoever stops the gateway leaves it the time for its drain, and in a pod the server's end comes on top.
#[test]
fn each_grace_period_is_longer_than_the_drain() {
    let mut kinds = BTreeSet::new();
    for (path, text) in files() {
        let server = if text.contains("name: server") { SERVERS_END } else { Duration::ZERO };
        for (key, needed) in [
            ("TimeoutStopSec=", end()),
            ("stop_grace_period:", end()),
            ("terminationGracePeriodSeconds:", end() + server),
        ] {
            for given in values(&text, key) {
                assert!(seconds(given) >= needed, "{}: {key} {given}, not {needed:?}", path.display());
                kinds.insert(key);
            }
        }
        let is_workload = text.contains("image: imapmove");
        let says = ["stop_grace_period:", "terminationGracePeriodSeconds:"];
        assert!(!is_workload || says.iter().any(|key| text.contains(key)), "{}", path.display());
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

/// Where the server gets its SIGTERM with the gateway, it sleeps until the gateway has ended.
#[test]
fn an_ordinary_server_container_outlives_the_drain() {
    let text = read("docker/kubernetes/two-containers/statefulset.yaml");
    let (_, rest) = text.split_once("- sleep\n").expect("the server's preStop");
    let sleep = seconds(values(rest, "\"")[0].trim_end_matches('"'));
    assert!(sleep >= end(), "{sleep:?}");
    let period = seconds(values(&text, "terminationGracePeriodSeconds:")[0]);
    assert!(period >= sleep + SERVERS_END, "{period:?}");
}

#[test]
fn each_variable_is_a_setting() {
    let known: BTreeSet<String> =
        TABLE.iter().map(|setting| setting.variable()).chain(["IMAPMOVE_CONFIG".to_string()]).collect();
    let is_of_a_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let mut found = 0;
    for (path, text) in files() {
        for rest in text.split("IMAPMOVE_").skip(1) {
            let name = rest.split(|c| !is_of_a_name(c)).next().expect("split gives one piece at least");
            assert!(known.contains(&format!("IMAPMOVE_{name}")), "{}: IMAPMOVE_{name}", path.display());
            found += 1;
        }
    }
    assert!(found > 0);
}

/// kustomize takes no part of a file that is not its own, so it stands there twice.
#[test]
fn the_operators_alerts_are_grafanas() {
    let (_, alerts) = read("grafana/alerts.yaml").split_once("\ngroups:\n").map(owned).expect("groups");
    let rule = read("docker/kubernetes/monitoring/prometheusrule.yaml");
    let (_, taken) = rule.split_once("\nspec:\n  groups:\n").map(owned).expect("groups");
    let indented = |line: &str| if line.is_empty() { String::new() } else { format!("  {line}") };
    let expected: Vec<String> = alerts.lines().map(indented).collect();
    assert!(taken.lines().eq(expected.iter()), "not grafana/alerts.yaml, indented by two");
}

fn owned(parts: (&str, &str)) -> (String, String) {
    (parts.0.to_string(), parts.1.to_string())
}

#[test]
fn the_packages_settings_are_good() {
    let words = ["imapmove", "--config", "docker/systemd/imapmove.toml"];
    let flags = config::command().try_get_matches_from(words).expect("a known flag");
    let config = Config::load(&flags).unwrap_or_else(|e| panic!("{e}"));
    let unit = read("docker/systemd/imapmove.service");
    let folder = format!("/var/lib/{}", values(&unit, "StateDirectory=")[0]);
    assert_eq!(config.journal.as_deref(), Some(Path::new(&folder)), "the unit makes the journal's folder");
}

/// The ports that manifests name are those on which the image listens.
#[test]
fn manifests_name_the_images_ports() {
    let image = read("docker/Dockerfile");
    let port = |name: &str| {
        let (_, rest) = image.split_once(&format!("{name}=0.0.0.0:")).unwrap_or_else(|| panic!("{name}"));
        rest.split_whitespace().next().expect("a word").to_string()
    };
    let mut found = 0;
    for (path, text) in files() {
        let gateway = text.split("image: imapmove").nth(1).unwrap_or_default();
        for (name, port) in [("imap", port("IMAPMOVE_LISTEN")), ("admin", port("IMAPMOVE_ADMIN"))] {
            for (at, _) in gateway.match_indices(&format!("- name: {name}\n")) {
                assert_eq!(values(&gateway[at..], "containerPort:")[0], port, "{}: {name}", path.display());
                found += 1;
            }
        }
    }
    assert_eq!(found, 6, "two in each of three layouts");
}

/// The image's compiler is one that the program can be built with, and its user is the one that manifests name.
#[test]
fn the_image_fits_the_program() {
    let image = read("docker/Dockerfile");
    let rust =
        image.split("rust:").nth(1).and_then(|rest| rest.split('-').next()).expect("rust:VERSION-DEBIAN");
    let version = |text: &str| text.split('.').map(|n| n.parse().expect("a number")).collect::<Vec<u32>>();
    assert!(version(rust) >= version(env!("CARGO_PKG_RUST_VERSION")), "{rust}");
    assert_eq!(values(&image, "USER "), ["65532:65532"]);
}
