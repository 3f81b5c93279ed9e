//! The README says what the program is: its settings, metrics and limits, its examples, and what the demo shows.

use imapmove::config::{self, Config, TABLE};
use imapmove::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const README: &str = include_str!("../README.md");
/// Where the limits are named.
const SOURCES: [&str; 18] = [
    include_str!("../src/origin.rs"),
    include_str!("../src/admin.rs"),
    include_str!("../src/admission.rs"),
    include_str!("../src/imap/identity.rs"),
    include_str!("../src/imap/recovery.rs"),
    include_str!("../src/imap/session/recover.rs"),
    include_str!("../src/connection.rs"),
    include_str!("../src/connection/leg.rs"),
    include_str!("../src/connection/pipe.rs"),
    include_str!("../src/connection/splice.rs"),
    include_str!("../src/imap/mod.rs"),
    include_str!("../src/imap/session/mod.rs"),
    include_str!("../src/proxy.rs"),
    include_str!("../src/tls/stream.rs"),
    include_str!("../src/journal.rs"),
    include_str!("../src/journal/entry.rs"),
    include_str!("../src/journal/file.rs"),
    include_str!("../src/journal/keeper.rs"),
];

/// From a heading to the next one.
fn section(title: &str) -> &'static str {
    let heading = format!("\n## {title}\n");
    let (_, rest) =
        README.split_once(&heading).unwrap_or_else(|| panic!("README.md has no section {title:?}"));
    rest.split("\n## ").next().expect("split gives one piece at least")
}

/// The rows of a section's table that begin with a name.
fn rows(title: &str) -> Vec<&'static str> {
    section(title).lines().filter(|line| line.starts_with("| `")).collect()
}

/// The table has these rows and no others.
fn same(title: &str, expected: &[String]) {
    assert!(rows(title) == expected, "{title} should have these rows:\n{}\n", expected.join("\n"));
}

/// The code blocks of a kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let fence = format!("\n```{kind}\n");
    README.split(&fence[..]).skip(1).map(|rest| rest.split("\n```").next().expect("a first piece")).collect()
}

#[test]
fn the_settings_table_is_the_programs() {
    let expected: Vec<String> = TABLE
        .iter()
        .map(|setting| {
            let (name, variable, help) = (setting.name(), setting.variable(), setting.help);
            let value = setting.placeholder.replace('|', "\\|");
            format!("| `--{name}` | `{variable}` | `{name}` | {value} | {} | {help} |", setting.default)
        })
        .collect();
    same("Settings", &expected);
}

#[test]
fn the_metrics_table_is_what_a_scraper_gets() {
    let metrics = String::from_utf8(Metrics::default().text()).expect("text");
    let expected: Vec<String> =
        families(&metrics).iter().filter(|f| f.name.starts_with("imapmove_")).map(Family::row).collect();
    same("Metrics", &expected);

    let named: BTreeSet<&str> =
        section("Metrics").split('`').filter(|word| word.starts_with("process_")).collect();
    let families = families(&metrics);
    let process = families.iter().map(|family| family.name).filter(|name| name.starts_with("process_"));
    assert_eq!(named, process.collect());
}

/// One metric of a `/metrics` page.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
    labels: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl Family<'_> {
    fn row(&self) -> String {
        let labels = self.labels.iter().map(|(label, values)| match *label {
            "version" => "version".to_string(),
            label => format!("{label}: {}", values.iter().copied().collect::<Vec<_>>().join(", ")),
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        format!("| `{}` | {} | {labels} | {} |", self.name, self.kind, self.help)
    }
}

fn families(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.push(Family { name, kind: "", help, labels: BTreeMap::new() });
        } else if let (Some((_, kind)), Some(family)) =
            (line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')), families.last_mut())
        {
            family.kind = kind;
        } else if let (Some((_, rest)), Some(family)) = (line.split_once('{'), families.last_mut()) {
            let labels = rest.split_once('}').expect("labels end").0.split(',');
            for (label, value) in labels.filter_map(|label| label.split_once('=')).filter(|l| l.0 != "le") {
                family.labels.entry(label).or_default().insert(value.trim_matches('"'));
            }
        }
    }
    families
}

#[test]
fn the_limits_table_is_the_programs() {
    let named: BTreeMap<&str, u128> = rows("Limits")
        .into_iter()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`'), written(cells[2]))
        })
        .collect();
    assert_eq!(named, SOURCES.into_iter().flat_map(constants).collect());
}

#[test]
fn each_limit_that_is_counted_is_explained() {
    let metrics = String::from_utf8(Metrics::default().text()).expect("text");
    let families = families(&metrics);
    let hits =
        families.iter().find(|f| f.name == "imapmove_limit_hits_total").expect("is there from the start");
    let settings = TABLE.iter().map(|setting| setting.name().replace('-', "_"));
    let constants = SOURCES.into_iter().flat_map(constants).map(|(name, _)| name.to_lowercase());
    let known: BTreeSet<String> = settings.chain(constants).chain(["descriptors".into()]).collect();
    let unknown: Vec<_> = hits.labels["limit"].iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A limit as the README writes it: in octets, in nanoseconds, or as a number.
fn written(text: &str) -> u128 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        unit => panic!("unknown unit {unit:?}"),
    };
    number.parse::<u128>().unwrap_or_else(|e| panic!("{text:?}: {e}")) * factor
}

/// The numbers and durations that a source file names.
fn constants(source: &str) -> impl Iterator<Item = (&str, u128)> {
    source.lines().filter_map(|line| {
        let (name, rest) =
            line.strip_prefix("pub ").unwrap_or(line).strip_prefix("const ")?.split_once(": ")?;
        let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
        let (call, factor) = match kind {
            "usize" | "u64" => ("", 1),
            "Duration" if value.contains("from_millis") => ("Duration::from_millis", 1_000_000),
            "Duration" => ("Duration::from_secs", 1_000_000_000),
            _ => return None,
        };
        let value = value.strip_prefix(call)?.trim_matches(['(', ')']);
        let factors =
            value.split(" * ").map(|factor| factor.replace('_', "").parse::<u128>().expect("a number"));
        Some((name, factors.product::<u128>() * factor))
    })
}

#[test]
fn the_examples_are_settings_that_the_program_takes() {
    let script = blocks("sh").join("\n").replace("\\\n", " ");
    let examples: Vec<&str> = script.lines().filter(|line| line.starts_with("imapmove ")).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    for example in examples {
        let words = example.trim_end_matches(" &").split_whitespace().map(|word| word.trim_matches('\''));
        let flags = match config::command().try_get_matches_from(words) {
            Err(asked) if !asked.use_stderr() => continue, // --version
            flags => flags.unwrap_or_else(|e| panic!("{example}\n{e}")),
        };
        if !example.contains("--config") && flags.subcommand().is_none() {
            Config::load(&flags).unwrap_or_else(|e| panic!("{example}\n{e}"));
        }
    }
}

#[test]
fn the_example_of_a_file_is_one_that_the_program_takes() {
    let files = blocks("toml");
    assert_eq!(files.len(), 1);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imapmove.toml");
    std::fs::write(&path, files[0]).expect("writes");
    let words = ["imapmove", "--config", path.to_str().expect("text")];
    let flags = config::command().try_get_matches_from(words).expect("a known flag");
    Config::load(&flags).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn the_demo_shows_what_is_quoted() {
    let demo = Command::new(env!("CARGO_BIN_EXE_imapmove")).args(["demo", "--once"]).output().expect("runs");
    let shown = without_uidvalidity(&String::from_utf8(demo.stdout).expect("text"));
    let mut shown = shown.lines();
    let quoted = without_uidvalidity(blocks("text")[0]);
    for line in quoted.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...") {
        assert!(shown.any(|other| other == line), "the demo does not show, in this order: {line}");
    }
}

/// UIDVALIDITY is a time, and another one in each run.
fn without_uidvalidity(text: &str) -> String {
    let mut words = text.split("[COPYUID ");
    let mut kept = words.next().unwrap_or_default().to_string();
    for rest in words {
        kept.push_str("[COPYUID v");
        kept.push_str(rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    kept
}
