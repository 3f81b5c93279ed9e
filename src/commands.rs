//! What the program does beside serving, without a connection to anybody: `check`, `config`, `completions`, `man`.

use crate::config::{self, Config, Problem};
use crate::proxy::{bind_own, check_journal};
use crate::screen::{GREEN, Screen, YELLOW};
use crate::shared::Current;
use crate::systemd::Sockets;
use clap::ArgMatches;
use clap_complete::Shell;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write, stdout};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs one of them, inside a runtime. Says whether all went well.
pub fn run(command: &str, flags: &ArgMatches) -> Result<bool, Problem> {
    let text = match command {
        "check" => check(Config::load(flags)?)?,
        "config" => Config::load(flags)?.shown().into_bytes(),
        "completions" => completions(*flags.get_one::<Shell>("shell").expect("it is required")),
        _ => manual(),
    };
    // Whoever stops to read has read enough.
    Ok(stdout().write_all(&text).is_ok())
}

/// Whether the gateway could start, line by line.
fn check(config: Config) -> Result<Vec<u8>, Problem> {
    let mut report = Screen { out: Vec::new(), coloured: Screen::stdout().coloured };
    report.ok("settings", format_args!("{} given, the others by default", config.given()));
    let current = Current::new(config)?;
    let config = &current.config;
    if let Some(cert) = &config.tls_cert {
        let how = format!("{}, {}", cert.display(), validity(current.not_after));
        match until(current.not_after) < SystemTime::now() {
            true => report.finding(YELLOW, "warn", "tls-cert", how),
            false => report.ok("tls-cert", how),
        }
        report.ok("tls-key", "the key of that certificate");
    }
    if let Some(ca) = &config.upstream_ca {
        report.ok("upstream-ca", ca.display());
    }
    check_journal(config)?;
    if let Some(folder) = &config.journal {
        write_in(folder).map_err(|e| config.problem("journal", format!("a folder to write in: {e}")))?;
        report.ok("journal", format_args!("{}, writable", folder.display()));
    }
    let mut sockets = Sockets::inherited(config)?;
    for (name, address) in
        [("listen", config.listen), ("listen-tls", config.listen_tls), ("admin", config.admin)]
    {
        if sockets.take(name).is_some() {
            report.ok(name, "opened by systemd");
        } else if let Some(address) = address {
            // Bound only: nobody connects to what is closed again at once.
            bind_own(config, name, address)?;
            report.ok(name, format_args!("{address}, free"));
        }
    }
    Ok(report.out)
}

impl Screen<Vec<u8>> {
    fn ok(&mut self, what: &str, how: impl Display) {
        self.finding(GREEN, "ok", what, how);
    }

    fn finding(&mut self, style: &str, mark: &str, what: &str, how: impl Display) {
        let mark = self.styled(style, &format!("{mark:<4}"));
        writeln!(self.out, "{mark}  {what:<13} {how}").expect("memory takes every octet");
    }
}

/// Makes a file there and removes it.
fn write_in(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!("imapmove-check-{}.new", std::process::id()));
    File::create_new(&path)?;
    fs::remove_file(path)
}

fn until(not_after: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(not_after)
}

/// What there is to say of a certificate that is valid until then, in seconds since 1970.
pub fn validity(not_after: u64) -> String {
    let until = until(not_after);
    let date = humantime::format_rfc3339_seconds(until).to_string();
    let date = date.split('T').next().unwrap_or_default();
    match until.duration_since(SystemTime::now()) {
        Ok(left) => format!("valid until {date}, {} days", left.as_secs() / DAY.as_secs()),
        Err(_) => format!("EXPIRED on {date}: it will be refused"),
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut config::command(), "imapmove", &mut script);
    script
}

fn manual() -> Vec<u8> {
    let mut page = Vec::new();
    let written =
        clap_mangen::Man::new(config::command().version(env!("CARGO_PKG_VERSION"))).render(&mut page);
    written.expect("memory takes every octet");
    page
}
