//! `imapmove probe`: will MOVE work with this server?
//!
//! It connects as the gateway would, looks at what the server says and takes, and lets the core judge the capability list
//! ([`Strategy::of`]). With `--try` a message goes there and back through a gateway in this very process: what it then says
//! is what every gateway would do.
//!
//! | file | what is in it |
//! |---|---|
//! | `target.rs`, `password.rs` | which server, and who |
//! | `dialogue.rs` | a mail client that speaks as little IMAP as a probe needs |
//! | `look.rs` | a look at the server, which changes nothing there |
//! | `trial.rs`, `scratch.rs` | `--try`, and the mailboxes that it makes and removes |
//! | `report.rs`, `screen.rs` | what was found out, as JSON and for people |

mod dialogue;
mod look;
mod password;
mod report;
mod scratch;
mod screen;
mod target;
mod trial;

use crate::config::value::Verify;
use crate::config::{Config, Problem};
use crate::imap::{Strategy, Tls};
use crate::screen::Screen;
use crate::shared::{Current, Signal};
use clap::ArgMatches;
use password::Password;
use report::{Report, Verdict, tls_name};
use std::io::{Write, stdout};
use std::path::Path;
use target::Target;
use tokio::sync::mpsc;
use trial::INTERRUPTED;

/// What the command line asks for.
pub struct Options {
    target: Target,
    login: Option<(String, Password)>,
    /// The protection that was asked for; else it depends on what the server offers.
    stated_tls: Option<Tls>,
    max_line: usize,
    verified: bool,
    tries: bool,
    json: bool,
    flags: ArgMatches,
}

impl Options {
    /// Reads the command line, and the password, which may be asked for on the terminal.
    pub fn read(flags: &ArgMatches) -> Result<Options, Problem> {
        let target = Target::parse(flags.get_one::<String>("url").expect("it is required"))?;
        let mut options = Options {
            stated_tls: Config::tls_of_probe(flags)?,
            target,
            login: None,
            max_line: 0,
            verified: true,
            tries: flags.get_flag("try"),
            json: flags.get_flag("json"),
            flags: flags.clone(),
        };
        let current = Current::new(options.config(options.expected_tls()?)?)?;
        options.max_line = current.config.max_line;
        options.verified = current.config.upstream_verify == Verify::Full;
        options.login = options.ask_for_login()?;
        Ok(options)
    }

    fn ask_for_login(&self) -> Result<Option<(String, Password)>, Problem> {
        let file = self.flags.get_one::<String>("password-file");
        let Some(user) = &self.target.user else {
            let needs = if self.tries { "try" } else { "password-file" };
            return match self.tries || file.is_some() {
                true => Err(Problem::new(format!("{needs}: expected a user in the URL: imap://USER@HOST"))),
                false => Ok(None),
            };
        };
        let password = match file {
            Some(file) => Password::from_file(Path::new(file))?,
            None => Password::asked_for(&self.target.to_string())?,
        };
        Ok(Some((user.clone(), password)))
    }

    /// How the connection is protected if the server can do it.
    fn expected_tls(&self) -> Result<Tls, Problem> {
        match (self.target.implicit, self.stated_tls) {
            (true, None | Some(Tls::Implicit)) => Ok(Tls::Implicit),
            (true, Some(_)) => Err(Problem::new("upstream-tls: expected implicit or nothing with imaps://")),
            (false, Some(Tls::Implicit)) => {
                Err(Problem::new("upstream-tls: expected imaps:// in the URL with implicit"))
            }
            (false, Some(stated)) => Ok(stated),
            (false, None) if self.target.at.is_loopback() => Ok(Tls::Off),
            (false, None) => Ok(Tls::StartTls),
        }
    }

    /// The settings of a gateway in front of this server.
    fn config(&self, tls: Tls) -> Result<Config, Problem> {
        let at = self.target.at.to_string();
        let ours = [
            ("upstream", at.as_str()),
            ("upstream-tls", tls_name(tls)),
            ("listen", "127.0.0.1:0"),
            ("admin", "off"),
            ("drain-grace", "0s"),
        ];
        Config::of_probe(&self.flags, &ours)
    }
}

/// Finds out and prints what is asked for. The exit code: 0, MOVE will work; 1, it will not; 2, that is not known.
pub async fn run(options: &Options, mut stop: mpsc::Receiver<Signal>) -> u8 {
    let report = find_out(options, &mut stop).await;
    // Whoever stops to read has read enough.
    let _ = match options.json {
        true => writeln!(stdout(), "{:#}", report.json()),
        false => Screen::stdout().report(&report),
    };
    match report.verdict {
        Verdict::Works(_) => 0,
        Verdict::Fails(_) => 1,
        Verdict::Unknown(_) => 2,
    }
}

async fn find_out(options: &Options, stop: &mut mpsc::Receiver<Signal>) -> Report {
    let mut report = Report::new(options.target.clone());
    report.verified = options.verified;
    let mut found = tokio::select! {
        found = look(options, &mut report) => found,
        _ = stop.recv() => Err(INTERRUPTED.to_string()),
    };
    if options.tries && found.is_ok() && report.strategy != Some(Strategy::Refuse) {
        found = trial::run(options, &mut report, stop).await;
    }
    report.verdict = match found {
        Ok(()) => verdict(&report),
        Err(why) => Verdict::Unknown(why),
    };
    report
}

async fn look(options: &Options, report: &mut Report) -> Result<(), String> {
    let mut dialogue = look::enter(options, report).await?;
    match &options.login {
        Some(_) => look::look_around(options, &mut dialogue, report).await?,
        None => report.strategy = report.before_login.as_deref().map(look::strategy),
    }
    let _ = dialogue.ask("LOGOUT").await;
    Ok(())
}

/// What it comes to, if nothing was in the way.
fn verdict(report: &Report) -> Verdict {
    if let Some(refusal) = report.trial.as_ref().and_then(|trial| trial.refusal.as_ref()) {
        return Verdict::Fails(format!("The gateway says {refusal}"));
    }
    if report.trial.as_ref().is_some_and(|trial| !trial.is_right()) {
        return Verdict::Fails("What was tried did not go as it should: see above.".to_string());
    }
    let has_logged_in = report.after_login.is_some();
    let sure = if has_logged_in { "" } else { " So says the list before the login: name a user to be sure." };
    match report.strategy {
        Some(Strategy::Copy) => Verdict::Works(format!(
            "The server has UIDPLUS and no MOVE: the gateway carries out each MOVE, by UID COPY, UID STORE and UID \
             EXPUNGE, and removes only what COPYUID proves to be copied.{sure}"
        )),
        Some(Strategy::Native) => Verdict::Works(format!(
            "The server has a MOVE of its own, which the gateway passes through untouched.{sure}"
        )),
        Some(Strategy::Refuse) if has_logged_in => Verdict::Fails(
            "The server has no UIDPLUS (RFC 4315): nothing would prove a copy, and a bare EXPUNGE takes other mail \
             along. So the gateway shows no MOVE, and refuses one."
                .to_string(),
        ),
        _ => Verdict::Unknown(
            "The server lists no UIDPLUS before the login, as many do that have it: name a user, imap://USER@HOST."
                .to_string(),
        ),
    }
}
