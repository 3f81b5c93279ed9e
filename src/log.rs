//! The log: to stderr, as text or as JSON, with no more of a user than the operator wants there.

use crate::config::Config;
use crate::config::value::{LogFormat, LogUser};
use crate::screen::is_coloured;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, stderr};
use std::sync::{LazyLock, OnceLock};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Of a user's name so many characters are shown.
const SHOWN: usize = 64;

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
static NAMED: OnceLock<LogUser> = OnceLock::new();
/// Of this process alone: nobody can try names against an old log.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Begins to log. A second call changes nothing.
pub fn start(config: &Config) {
    let _ = NAMED.set(config.log_user);
    let (level, handle) = reload::Layer::new(config.log_level);
    let by_itself = if stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    // A log that nobody reads any more must not end the process: its complaint would go to stderr, and panic there.
    let lines = fmt::layer().with_writer(stderr).log_internal_errors(false);
    let lines = match config.log_format.unwrap_or(by_itself) {
        LogFormat::Text => lines.with_ansi(is_coloured(&stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    if tracing_subscriber::registry().with(level).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Logs from this level on.
pub fn set_level(level: LevelFilter) {
    // Fails if nothing is logged at all.
    let _ = LEVEL.get().map(|handle| handle.reload(level));
}

/// A user as the log names him.
pub fn user(user: &[u8]) -> Option<String> {
    match NAMED.get().unwrap_or(&LogUser::Hash) {
        LogUser::Hash => Some(format!("{:016x}", KEY.hash_one(user))),
        LogUser::Plain => Some(user.escape_ascii().to_string().chars().take(SHOWN).collect()),
        LogUser::None => None,
    }
}
