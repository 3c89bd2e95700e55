//! One loader for all programs: flags over environment over file over defaults.
//!
//! ```text
//! clap struct ──Command──┐
//! TOML file ──check keys─┴─▶ the file's values become the flags' defaults ──parse──▶ the struct
//! ```
//!
//! The keys of the file are the long names of the root command's flags
//! (`state-dir = "/var/lib/loden"`); arrays stand for repeated flags, booleans
//! for switches. The loader adds `--config FILE` (`LODEN_CONFIG`) itself. A
//! switch that the file turns on is turned off by its environment variable.
//!
//! The root command's flags that clap calls global may follow a subcommand. All of
//! them may follow `serve`, which only says what a daemon does anyway; after any
//! other subcommand they are refused with the place where they belong.

mod file;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser, ValueHint, value_parser};

/// The flag that names the file.
const CONFIG: &str = "config";
/// The subcommand that is the same as none.
const SERVE: &str = "serve";

/// Loads the settings of this process; on a mistake, `--help` or `--version`
/// it prints the message and ends the process as clap does (codes 0 and 2).
///
/// Without `--config` the first of `default_files` that exists is read.
pub fn load<T: Parser>(default_files: &[PathBuf]) -> T {
    load_from(std::env::args_os(), default_files).unwrap_or_else(|error| error.exit())
}

/// As [`load`], from the given command line (the program's name first).
///
/// # Errors
/// A flag, an environment variable or the file is wrong; the message names
/// the place, the key and the value. Also `--help` and `--version`.
pub fn load_from<T: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    default_files: &[PathBuf],
) -> Result<T, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = with_config_flag(T::command(), default_files);
    if names_serve(&command, &arguments) {
        // clap knows none that is required and global.
        command = command.mut_args(|arg| if arg.is_required_set() { arg } else { arg.global(true) });
    }
    if let Some(path) = chosen_file(&command, &arguments, default_files)? {
        command = file::apply(command, &path)
            .map_err(|error| T::command().error(ErrorKind::InvalidValue, error))?;
    }
    let matches = command.try_get_matches_from_mut(arguments);
    let mut matches = matches.map_err(|error| with_its_place(error, &command))?;
    T::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The command with the flag that the loader adds, for completions and help.
#[must_use]
pub fn command<T: Parser>(default_files: &[PathBuf]) -> Command {
    with_config_flag(T::command(), default_files)
}

fn with_config_flag(command: Command, default_files: &[PathBuf]) -> Command {
    let files: Vec<_> = default_files.iter().map(|path| path.display().to_string()).collect();
    let help = format!("TOML file with the long names of the flags as keys [default: {}]", files.join(", "));
    command.arg(
        Arg::new(CONFIG)
            .long(CONFIG)
            .env("LODEN_CONFIG")
            .value_name("FILE")
            .value_hint(ValueHint::FilePath)
            .value_parser(value_parser!(PathBuf))
            .action(ArgAction::Set)
            .global(true)
            .help_heading("Global options")
            .help(help),
    )
}

/// Whether the command line has the word `serve` for a subcommand, whatever else is in it.
fn names_serve(command: &Command, arguments: &[OsString]) -> bool {
    let lenient = command.clone().ignore_errors(true).disable_help_flag(true);
    let matches = lenient.try_get_matches_from(arguments);
    matches.is_ok_and(|matches| matches.subcommand_name() == Some(SERVE))
}

/// The file that was asked for, else the first default one that is there.
fn chosen_file(
    command: &Command,
    arguments: &[OsString],
    default_files: &[PathBuf],
) -> Result<Option<PathBuf>, clap::Error> {
    // Mistakes are the next parse's to tell, when the file's values are in.
    let lenient = command.clone().ignore_errors(true);
    let matches = lenient.try_get_matches_from(arguments)?;
    let asked = matches.get_one::<PathBuf>(CONFIG).cloned();
    Ok(asked.or_else(|| default_files.iter().find(|path| Path::exists(path)).cloned()))
}

/// Says where a flag of the root command belongs that was given to a subcommand.
fn with_its_place(mut error: clap::Error, command: &Command) -> clap::Error {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return error };
    let is_given = |arg: &Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        [long, short].contains(&Some(given.clone()))
    };
    if error.kind() == ErrorKind::UnknownArgument && command.get_arguments().any(is_given) {
        let program = command.get_name();
        let tip = format!("'{given}' is a flag of {program} itself: give it before the subcommand");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

#[cfg(test)]
mod tests;
