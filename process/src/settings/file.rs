//! A TOML file as defaults of a command's flags.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::builder::{OsStr, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration file {}: {source}", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("configuration file {}: unknown key \"{key}\"{}", path.display(), nearest(near.as_deref()))]
    UnknownKey { path: PathBuf, key: String, near: Option<String> },
    #[error("configuration file {}: {key} = {value}: {rule}", path.display())]
    Value { path: PathBuf, key: String, value: String, rule: String },
}

fn nearest(key: Option<&str>) -> String {
    key.map(|key| format!("; did you mean \"{key}\"?")).unwrap_or_default()
}

/// Makes the values of the file at `path` the defaults of `command`'s flags.
pub(super) fn apply(command: Command, path: &Path) -> Result<Command, FileError> {
    let text =
        fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: Table = text
        .parse()
        .map_err(|source| FileError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    table.iter().try_fold(command, |command, (key, value)| set(command, path, key, value))
}

/// One key of the file.
fn set(command: Command, path: &Path, key: &str, value: &Value) -> Result<Command, FileError> {
    let Some(arg) = flags(&command).find(|arg| arg.get_long() == Some(key)).cloned() else {
        let near = flags(&command)
            .filter_map(Arg::get_long)
            .map(|name| (strsim::jaro_winkler(key, name), name))
            .filter(|(likeness, _)| *likeness > 0.7)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, name)| name.to_owned());
        return Err(FileError::UnknownKey { path: path.to_owned(), key: key.to_owned(), near });
    };
    let refuse = |rule: String| FileError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
        rule,
    };
    let values = values(&arg, value).map_err(refuse)?;
    check(&command, &arg, &values).map_err(refuse)?;
    Ok(command
        .mut_arg(arg.get_id(), |arg| arg.required(false).default_values(values.into_iter().map(OsStr::from))))
}

/// The flags that a file may set.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        let sets = matches!(
            arg.get_action(),
            ArgAction::Set | ArgAction::Append | ArgAction::SetTrue | ArgAction::SetFalse
        );
        sets && arg.get_id() != super::CONFIG
    })
}

/// The value as texts, as they would stand on the command line.
fn values(arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
    let repeated = matches!(arg.get_action(), ArgAction::Append)
        || arg.get_num_args().is_some_and(|count| count.max_values() > 1);
    match value {
        Value::Boolean(on) => Ok(vec![on.to_string()]),
        _ if switch => Err("must be true or false".to_owned()),
        Value::Array(items) if repeated && items.is_empty() && is_needed(arg) => {
            Err("must have at least one value".to_owned())
        }
        Value::Array(items) if repeated => items.iter().map(scalar).collect(),
        Value::Array(_) => Err("must be one value, not an array".to_owned()),
        value => scalar(value).map(|text| vec![text]),
    }
}

/// Whether the program always has a value of this flag: its own default, if nobody gives one.
fn is_needed(arg: &Arg) -> bool {
    arg.is_required_set() || !arg.get_default_values().is_empty()
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => Ok(value.to_string()),
        Value::Array(_) | Value::Table(_) => Err("must be a plain value".to_owned()),
    }
}

/// Lets the flag's own parser look at the values, so that the error can name
/// the file.
fn check(command: &Command, arg: &Arg, values: &[String]) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        return Ok(());
    }
    let Some(long) = arg.get_long() else {
        return Ok(());
    };
    let probe = command
        .clone()
        .mut_args(|arg| arg.env(Resettable::Reset))
        .arg_required_else_help(false)
        .subcommand_required(false);
    for value in values {
        let line = [String::new(), format!("--{long}={value}")];
        let Err(error) = probe.clone().try_get_matches_from(line) else {
            continue;
        };
        if let Some(rule) = rule(&error) {
            return Err(rule);
        }
    }
    Ok(())
}

/// Why a value is refused; `None` when the error is not about a value.
fn rule(error: &clap::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::ValueValidation => {
            Some(error.source().map_or_else(|| "is not valid".to_owned(), ToString::to_string))
        }
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                Some(format!("must be one of {}", valid.join(", ")))
            }
            _ => Some("must not be empty".to_owned()),
        },
        ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues | ErrorKind::TooManyValues => {
            Some("has the wrong number of values".to_owned())
        }
        _ => None,
    }
}
