//! The README's tutorial, as a new user would try it: each of its commands, word for word and in order, in a fresh clone.

use crate::client::Client;
use crate::mail;
use crate::prometheus::{Prometheus, check_alerts, check_dashboard};
use crate::server::{free_address, tail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

const README: &str = include_str!("../../README.md");
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// Those that the tutorial names: the old server's, the gateway's three, and that of Prometheus.
const PORTS: [&str; 5] = ["10143", "1143", "1993", "9143", "9099"];
const SERVER: usize = 0;
const PROMETHEUS: usize = 4;
/// All of it, the build included, in seconds.
const LONGEST: &str = "1800";

#[test]
fn the_tutorial_does_what_it_says() {
    let folder = tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder");
    let mut shell = Shell::start(folder);
    let ports = PORTS.map(|_| free_address());
    let mut prometheus = None;
    let mut is_moved = false;
    for block in blocks() {
        shell.run(&with_ports(block, &ports));
        if block.contains("\nprometheus ") {
            prometheus = Some(Prometheus::running_at(ports[PROMETHEUS], shell.log()));
        }
        if block.contains("UID MOVE") {
            check_moved(ports[SERVER]);
            let prometheus = prometheus.as_ref().expect("started before");
            check_dashboard(prometheus);
            check_alerts(prometheus);
            is_moved = true;
        }
    }
    assert!(is_moved, "no MOVE in the tutorial");
    let said = fs::read_to_string(shell.log()).expect("a log");
    for told in ["MOVE will work.", "Moved", "* 1 EXPUNGE", "Through the gateway.", "\"phase\":\"running\""] {
        assert!(said.contains(told), "no {told:?} in\n{said}");
    }
    assert!(!shell.clone.join("try").exists(), "it leaves nothing");
}

/// What stands in the tutorial between the fences.
fn blocks() -> Vec<&'static str> {
    let (_, rest) = README.split_once("\n## Tutorial\n").expect("a tutorial");
    let section = rest.split("\n## ").next().expect("a first piece");
    let blocks =
        section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a first piece"));
    blocks.collect()
}

/// The only thing that is not as the README has it: on a machine that runs tests, others may have its ports.
fn with_ports(block: &str, ports: &[SocketAddr; 5]) -> String {
    let is_no_digit = |c: char| !c.is_ascii_digit();
    let words = block.split_inclusive(is_no_digit).map(|word| {
        let number = word.trim_end_matches(is_no_digit);
        let place = PORTS.iter().position(|port| *port == number);
        place.map_or(word.to_owned(), |place| word.replace(number, &ports[place].port().to_string()))
    });
    words.collect()
}

/// The message is in `Archive`, once, and `Tray` is empty; the old server says so itself.
fn check_moved(server: SocketAddr) {
    let mut client = Client::login(server);
    let mut subjects = |mailbox: &str| -> BTreeMap<String, usize> {
        let found = mail::contents(&mut client, mailbox).into_iter();
        found.map(|(subject, all)| (subject, all.len())).collect()
    };
    assert_eq!(subjects("Tray"), BTreeMap::new());
    assert_eq!(subjects("Archive"), BTreeMap::from([("hello".to_owned(), 1)]));
}

/// A bash in a fresh clone. What runs in its background ends with it.
struct Shell {
    clone: PathBuf,
    /// Nothing when it should end.
    commands: Option<ChildStdin>,
    ends: BufReader<ChildStdout>,
    bash: Child,
    blocks: usize,
    folder: TempDir,
}

impl Shell {
    fn start(folder: TempDir) -> Shell {
        let clone = folder.path().join("imapmove");
        cloned(&clone);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LONGEST, "bash", "-eu", "-o", "pipefail"]).current_dir(&clone);
        for (name, _) in std::env::vars_os() {
            // Of this build, not of a new user's.
            if ["CARGO", "IMAPMOVE_", "BUILD_"].iter().any(|start| name.to_string_lossy().starts_with(start))
                && name != "CARGO_HOME"
            {
                command.env_remove(name);
            }
        }
        let mut bash = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash runs");
        let commands = bash.stdin.take();
        let ends = BufReader::new(bash.stdout.take().expect("piped"));
        let mut shell = Shell { clone, commands, ends, bash, blocks: 0, folder };
        // The recipe that starts Prometheus in other tests has unpacked it, and not installed.
        shell.say(&format!(
            "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n\
             {REPOSITORY}/tests/servers/prometheus.sh install >&2\n\
             PATH=$(. {REPOSITORY}/tests/servers/common.sh; echo \"$CACHE\")/prometheus/usr/bin:$PATH\n"
        ));
        shell
    }

    /// What the commands have said, each behind itself.
    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Runs a block of commands to its end.
    ///
    /// # Panics
    /// If one of them fails.
    fn run(&mut self, block: &str) {
        self.blocks += 1;
        let file = self.folder.path().join(format!("block-{}", self.blocks));
        fs::write(&file, format!("set -x\n{block}set +x\n")).expect("writes");
        self.say(&format!(". {} </dev/null >>{} 2>&1\necho ended\n", file.display(), self.log().display()));
        let mut end = String::new();
        let read = self.ends.read_line(&mut end);
        let failed = || format!("a command of the tutorial failed; the last lines:\n{}", tail(&self.log()));
        assert!(read.is_ok() && end == "ended\n", "{}", failed());
    }

    fn say(&mut self, text: &str) {
        let commands = self.commands.as_mut().expect("still open");
        // A bash that has ended shows when its answer is read.
        let _ = commands.write_all(text.as_bytes());
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.bash.wait();
    }
}

/// This repository as it would be if all of it were committed. What the dependencies were built to is kept from run to
/// run; the program itself is built anew.
fn cloned(clone: &Path) {
    let script = "git clone --quiet . \"$0\"
        { git diff -z --name-only --diff-filter=d HEAD; git ls-files -z --others --exclude-standard; } |
            xargs -0 -r cp --parents -t \"$0\"
        mkdir -p \"$1\" && ln -s \"$1\" \"$0/target\"";
    let kept = Path::new(env!("CARGO_BIN_EXE_imapmove")).ancestors().nth(2).expect("target/debug/imapmove");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script])
        .arg(clone)
        .arg(kept.join("tutorial"))
        .current_dir(REPOSITORY);
    assert!(bash.status().expect("bash runs").success(), "git can clone {REPOSITORY}");
}
