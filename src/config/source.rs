//! Where settings come from: flags, environment, file.

use super::{Given, Problem, Setting, TABLE};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, parser::ValueSource, value_parser};
use clap_complete::Shell;
use std::ffi::OsStr;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Columns of `--help`.
const WIDTH: usize = 100;
/// Names less like a known one than this are not suggested.
const LIKENESS: f64 = 0.7;
/// What stands for the argument of `completions`, and what it can be.
const SHELL: &str = "<SHELL>";
const SHELLS: &str = "bash, elvish, fish, powershell or zsh";
/// What stands for the argument of `probe`, and what it is.
const URL: &str = "<URL>";
/// What the argument of `probe` looks like.
pub const URL_FORM: &str = "imap://[USER@]HOST[:PORT] or imaps://[USER@]HOST[:PORT]";
/// The settings that matter to `probe`.
const OF_PROBE: [&str; 5] = ["upstream_tls", "upstream_ca", "upstream_name", "upstream_verify", "max_line"];
/// Variables of ours begin so.
const PREFIX: &str = "IMAPMOVE_";
/// The program's own version, that of its source, and what makes its TLS.
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("BUILD_COMMIT"), ", TLS by rustls with ring)");

pub(super) fn command() -> Command {
    settings(Command::new("imapmove"))
        .version(VERSION)
        .about("Gives MOVE (RFC 6851) to an IMAP server that never learned it")
        .after_help(
            "Each setting can also stand in the file, by the same name without the dashes, or in the \
             environment, as IMAPMOVE_ and its name in capitals, with _ for -: IMAPMOVE_TLS_CERT.",
        )
        .max_term_width(WIDTH)
        .args_conflicts_with_subcommands(true)
        .subcommand(
            settings(Command::new("check"))
                .about("Says whether it could start with these settings: 0 if it could, 2 if not"),
        )
        .subcommand(
            settings(Command::new("config"))
                .about("Prints the effective settings, as a file of them, with where each comes from"),
        )
        .subcommand(probe())
        .subcommand(demo())
        .subcommand(completions())
        .subcommand(Command::new("man").about("Prints the manual page, in troff"))
}

/// A command that takes every setting.
fn settings(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").value_hint(ValueHint::FilePath);
    command
        .arg(config.help("TOML file with any of these settings [env: IMAPMOVE_CONFIG]"))
        .args(TABLE.iter().map(flag))
}

fn probe() -> Command {
    let url = Arg::new("url").value_name("URL").required(true);
    let flag_of = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let password = Arg::new("password-file").long("password-file").value_name("FILE");
    let password = password.value_hint(ValueHint::FilePath);
    Command::new("probe")
        .about("Says whether MOVE will work with a server: 0 if it will, 1 if not, 2 if that cannot be found out")
        .arg(url.help(format!("The server: {URL_FORM}")))
        .arg(flag_of("try").help("Move a message between two mailboxes that are made for it and removed again"))
        .arg(flag_of("json").help("Print JSON, for scripts"))
        .arg(password.help("File with the user's password in one line, which else is asked for on the terminal"))
        .args(settings_of_probe().map(flag))
}

fn settings_of_probe() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().filter(|setting| OF_PROBE.contains(&setting.field))
}

fn completions() -> Command {
    let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell));
    Command::new("completions")
        .about("Prints what a shell needs to complete the command line")
        .arg(shell.help("The shell that reads it"))
}

fn demo() -> Command {
    let once = Arg::new("once").long("once").action(ArgAction::SetTrue);
    Command::new("demo")
        .about("Shows one MOVE on a small server in memory, for which nothing needs to be installed")
        .arg(once.help("End after that: 0 if the MOVE was right, 1 if not"))
}

fn flag(setting: &Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default}", setting.help);
    let arg = Arg::new(setting.field).long(setting.name()).value_name(setting.placeholder).help(help);
    match setting.default {
        // `--require-tls` alone says yes.
        "true" | "false" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

/// All that was given: the file first, then what overrides it.
pub(super) fn gather(flags: &ArgMatches) -> Result<Given, Problem> {
    let mut given = Given::default();
    check_variables(std::env::vars_os().map(|(name, _)| name))?;
    if let Some((path, origin)) = from_flag_or_variable(flags, "config", "config", "IMAPMOVE_CONFIG")? {
        read_file(Path::new(&path), &origin, &mut given)?;
    }
    override_with(TABLE.iter(), flags, &mut given)?;
    Ok(given)
}

/// The same for `probe`, which takes some settings only, and no file.
pub(super) fn gather_for_probe(flags: &ArgMatches) -> Result<Given, Problem> {
    let mut given = Given::default();
    override_with(settings_of_probe(), flags, &mut given)?;
    Ok(given)
}

fn override_with(
    settings: impl Iterator<Item = &'static Setting>,
    flags: &ArgMatches,
    given: &mut Given,
) -> Result<(), Problem> {
    for setting in settings {
        let name = setting.name();
        if let Some(found) = from_flag_or_variable(flags, setting.field, &name, &setting.variable())? {
            given.0.insert(setting.field.to_string(), found);
        }
    }
    Ok(())
}

/// A misspelt variable would be a setting that is silently not set.
fn check_variables(names: impl Iterator<Item = impl AsRef<OsStr>>) -> Result<(), Problem> {
    for name in names {
        let name = name.as_ref().to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let is_known = rest == "CONFIG" || TABLE.iter().any(|setting| setting.variable() == name);
        if !is_known && !is_of_kubernetes(rest) {
            let expected = nearest(&rest.to_lowercase().replace('_', "-"), Setting::variable);
            return Err(Problem(format!("environment {}: expected {expected}", name.escape_debug())));
        }
    }
    Ok(())
}

/// Whether Kubernetes may have set it: it tells each container of every service in its namespace, and one can be
/// called imapmove.
fn is_of_kubernetes(rest: &str) -> bool {
    let rest = format!("_{rest}_");
    ["_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_"].iter().any(|part| rest.contains(part))
}

/// The text and its origin. An empty variable counts as absent: compose files pass them on that way.
fn from_flag_or_variable(
    flags: &ArgMatches,
    id: &str,
    name: &str,
    variable: &str,
) -> Result<Option<(String, String)>, Problem> {
    if flags.value_source(id) == Some(ValueSource::CommandLine) {
        let text = flags.get_one::<String>(id).cloned().unwrap_or_default();
        return match text.is_empty() {
            true => Err(Problem(format!("{name} (flag --{name}): given \"\", expected a value"))),
            false => Ok(Some((text, format!("flag --{name}")))),
        };
    }
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => Ok(Some((text, format!("environment {variable}")))),
        Err(std::env::VarError::NotUnicode(text)) => {
            Err(Problem(format!("{name} (environment {variable}): given {text:?}, expected UTF-8")))
        }
        _ => Ok(None),
    }
}

fn read_file(path: &Path, origin: &str, given: &mut Given) -> Result<(), Problem> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Problem(format!("config ({origin}): given {path:?}, expected a readable TOML file: {e}"))
    })?;
    let line_of = |offset: usize| text.bytes().take(offset).filter(|b| *b == b'\n').count();
    let at = |offset: usize| {
        format!("file {}, line {}", path.display().to_string().escape_debug(), 1 + line_of(offset))
    };
    let table = DeTable::parse(&text).map_err(|e| {
        let start = e.span().map_or(0, |span| span.start);
        let line = excerpt(text.lines().nth(line_of(start)).unwrap_or_default());
        let expected = e.message().replace('\n', ", ");
        Problem(format!("config ({}): given {line:?}, expected TOML: {expected}", at(start)))
    })?;
    for (key, value) in table.get_ref() {
        let origin = at(key.span().start);
        if matches!(value.get_ref(), DeValue::Table(_)) {
            let key = key.get_ref();
            return Err(Problem(format!(
                "config ({origin}): given the table {key:?}, expected settings without tables"
            )));
        }
        let setting = known(key.get_ref(), &origin)?;
        let Some(text) = scalar(value.get_ref()) else {
            let raw = excerpt(text.get(value.span()).unwrap_or_default());
            let form = if matches!(value.get_ref(), DeValue::Array(_)) { ", as text" } else { "" };
            given.0.insert(setting.field.to_string(), (raw, origin));
            return Err(given.problem(setting.field, &format!("{}{form}", (setting.expected)())));
        };
        given.0.insert(setting.field.to_string(), (text, origin));
    }
    Ok(())
}

/// What of a file stands in a complaint.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// The setting of that name, or the nearest one in the complaint.
fn known(name: &str, origin: &str) -> Result<&'static Setting, Problem> {
    if let Some(setting) = TABLE.iter().find(|s| s.name() == name) {
        return Ok(setting);
    }
    let expected = nearest(&name.to_lowercase(), Setting::name);
    Err(Problem(format!("config ({origin}): given {name:?}, expected {expected}")))
}

/// What was expected in the place of an unknown name: the setting with the nearest one, as it is spelt there.
fn nearest(name: &str, spelt: fn(&Setting) -> String) -> String {
    let likeness = |s: &Setting| strsim::jaro_winkler(&s.name(), name);
    let nearest = TABLE.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|s| likeness(s) >= LIKENESS) {
        Some(setting) => format!("a setting; the nearest is {}", spelt(setting)),
        None => "a setting that `imapmove --help` lists".to_string(),
    }
}

/// As a flag would have it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(number.to_string()),
            Err(_) => Some(number.to_string()),
        },
        _ => None,
    }
}

/// The command line's own complaint, in one line.
impl From<clap::Error> for Problem {
    fn from(error: clap::Error) -> Problem {
        let context = |kinds: [ContextKind; 2]| {
            kinds.into_iter().find_map(|kind| match error.get(kind) {
                Some(ContextValue::String(text)) => Some(text.clone()),
                Some(ContextValue::Strings(texts)) => texts.first().cloned(),
                _ => None,
            })
        };
        let what = context([ContextKind::InvalidArg, ContextKind::InvalidSubcommand]).unwrap_or_default();
        // Of a flag that it knows, clap shows the value's placeholder too.
        let what = what.split([' ', '[']).next().unwrap_or_default();
        let needed = match what {
            SHELL => Some(SHELLS),
            URL => Some(URL_FORM),
            _ => None,
        };
        let value = context([ContextKind::InvalidValue; 2]).filter(|_| needed.is_some());
        let given = value.as_deref().unwrap_or(what);
        let nearest = context([ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand]);
        let expected = match (error.kind(), needed, nearest) {
            (ErrorKind::MissingRequiredArgument, Some(form), _) => {
                return Problem(format!("command line: {what} not given, expected {form}"));
            }
            (_, Some(form), _) => form.to_string(),
            (ErrorKind::InvalidValue, ..) => "a value after it".to_string(),
            (ErrorKind::ArgumentConflict, ..) if given.starts_with('-') => "it once".to_string(),
            (ErrorKind::ArgumentConflict, ..) if command().find_subcommand(given).is_some() => {
                "no setting before it".to_string()
            }
            _ if ["true", "false"].contains(&given) => {
                format!("it behind the flag and a =, as in --require-tls={given}")
            }
            (_, _, Some(nearest)) => format!("a flag or a command; the nearest is {nearest}"),
            _ => "a flag or a command that `imapmove --help` lists".to_string(),
        };
        Problem(format!("command line: given {given:?}, expected {expected}"))
    }
}
