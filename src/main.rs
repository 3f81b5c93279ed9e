//! The life of the process, top to bottom.

use clap::ArgMatches;
use imapmove::config::{self, Config, Problem};
use imapmove::proxy::Proxy;
use imapmove::shared::Signal;
use imapmove::{commands, demo, journal, log, probe};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A bad setting.
const UNUSABLE: u8 = 2;
/// Sessions were cut at the end, or the demo was not right.
const NOT_CLEAN: u8 = 1;

fn main() -> ExitCode {
    match live() {
        Ok(code) => code.into(),
        Err(problem) => {
            eprintln!("imapmove: {problem}");
            UNUSABLE.into()
        }
    }
}

/// Settings, log, sockets, sessions, drain; or what else was asked for. The exit code.
fn live() -> Result<u8, Problem> {
    let flags = match config::command().try_get_matches() {
        Err(asked) if !asked.use_stderr() => asked.exit(),
        flags => flags?,
    };
    let runtime = Runtime::new().expect("the system has threads and an event queue");
    if let Some((command, flags)) = flags.subcommand() {
        return match command {
            "demo" => Ok(code(runtime.block_on(show(flags.get_flag("once"))))),
            "probe" => {
                // Before signals are caught: whoever is asked for a password can still go.
                let options = probe::Options::read(flags)?;
                let found = runtime.block_on(async { probe::run(&options, signals(None)).await });
                runtime.shutdown_background();
                Ok(found)
            }
            command => runtime.block_on(async { commands::run(command, flags) }).map(code),
        };
    }
    let config = Config::load(&flags)?;
    start_log(&config);
    raise_descriptor_limit();
    let clean = runtime.block_on(async {
        // Before an address is announced: whoever reads it may send a signal at once.
        let signals = signals(Some(flags));
        Ok(Proxy::bind(config).await?.run(signals).await == 0)
    });
    // A name that is still being looked up must not keep the process.
    runtime.shutdown_background();
    clean.map(code)
}

fn code(all_went_well: bool) -> u8 {
    if all_went_well { 0 } else { NOT_CLEAN }
}

/// The demo. Says whether it was right.
async fn show(once: bool) -> bool {
    let shown = demo::run(once, signals(None)).await;
    shown.unwrap_or_else(|error| {
        eprintln!("imapmove: the demo failed: {error}");
        false
    })
}

fn start_log(config: &Config) {
    log::start(config);
    // Where, and not the message: that can quote what a peer sent.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        match std::thread::current().name() {
            // Which says what came of it.
            Some(journal::THREAD) => tracing::warn!(place, "the journal met a file that it cannot read"),
            _ => tracing::error!(place, "a bug ended one session: please report it"),
        }
    }));
}

/// Each client takes two descriptors, and the usual soft limit is 1,024: up to what this process may have.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it the gateway works as well, for fewer clients.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A message for each SIGTERM and SIGINT, and where there are settings that can be read again, for each SIGHUP.
fn signals(flags: Option<ArgMatches>) -> mpsc::Receiver<Signal> {
    let (sender, receiver) = mpsc::channel(2);
    let stop: fn() -> Signal = || Signal::Stop;
    pass_on(SignalKind::terminate(), sender.clone(), stop);
    pass_on(SignalKind::interrupt(), sender.clone(), stop);
    if let Some(flags) = flags {
        pass_on(SignalKind::hangup(), sender, move || Signal::Reload(Config::load(&flags).map(Box::new)));
    }
    receiver
}

fn pass_on(
    kind: SignalKind,
    sender: mpsc::Sender<Signal>,
    message: impl Fn() -> Signal + Clone + Send + 'static,
) {
    let mut stream = signal(kind).expect("SIGTERM, SIGINT and SIGHUP can be caught");
    tokio::spawn(async move {
        while stream.recv().await.is_some() {
            // It may read a file, and no thread that serves connections waits for a disk.
            let Ok(message) = tokio::task::spawn_blocking(message.clone()).await else { return };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
}
