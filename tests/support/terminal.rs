//! A terminal of 80 columns, as a person sits at.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition that no event announces is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long it may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// One in which the program runs.
pub struct Terminal {
    /// `script`, of util-linux: what it reads is typed, what it writes is shown.
    script: Child,
    shown: String,
    device: String,
}

impl Terminal {
    /// Runs `imapmove` there, with these variables in its environment.
    pub fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Terminal {
        let words: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        let run =
            format!("stty cols 80 rows 24; tty; exec {} {}", env!("CARGO_BIN_EXE_imapmove"), words.join(" "));
        let mut command = Command::new("timeout");
        command.args(["120", "script", "--quiet", "--flush", "--return", "--command", &run, "/dev/null"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let script = command.spawn().expect("script runs");
        let mut terminal = Terminal { script, shown: String::new(), device: String::new() };
        terminal.until("\r\n");
        terminal.device = std::mem::take(&mut terminal.shown).trim_end().to_owned();
        terminal
    }

    /// Waits until these words are shown.
    pub fn until(&mut self, words: &str) {
        let stdout = self.script.stdout.as_mut().expect("piped");
        let mut octet = [0];
        while !self.shown.contains(words) {
            let read = stdout.read(&mut octet).expect("reads");
            assert_eq!(read, 1, "it ended before {words:?}:\n{}", self.shown);
            self.shown.push(octet[0].into());
        }
    }

    /// Types a line, once the terminal shows nothing of what is typed.
    pub fn type_unseen(&mut self, line: &str) {
        self.until_unseen();
        self.press(&format!("{line}\n"));
    }

    /// Types Ctrl-D, once the terminal shows nothing of what is typed.
    pub fn type_the_end(&mut self) {
        self.until_unseen();
        self.press("\x04");
    }

    fn until_unseen(&self) {
        let begun = Instant::now();
        while !self.settings().contains(" -echo ") {
            assert!(begun.elapsed() < PATIENCE, "what is typed is shown: {}", self.settings());
            sleep(POLL);
        }
    }

    /// Types Ctrl-C.
    pub fn interrupt(&mut self) {
        self.press("\x03");
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().expect("piped");
        stdin.write_all(keys.as_bytes()).expect("script reads");
    }

    fn settings(&self) -> String {
        let stty = Command::new("stty").args(["-a", "-F", &self.device]).output().expect("stty runs");
        String::from_utf8(stty.stdout).expect("text")
    }

    /// Waits for its end: the exit code, and all that was shown.
    pub fn ended(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.script.stdout.take().expect("piped").read_to_string(&mut rest).expect("text");
        let code = self.script.wait().expect("our child").code().expect("an exit code");
        (code, self.shown + &rest)
    }
}
