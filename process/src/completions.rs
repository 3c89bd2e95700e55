//! Shell completions for any of the programs.

use std::io::{self, Write};

use clap::Command;

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// Writes the completion script of `command` for `shell`.
///
/// # Errors
/// `out` refuses the script, for instance a closed pipe.
pub fn write(shell: Shell, mut command: Command, out: &mut impl Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // By way of a buffer, since the generator panics on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, name, &mut script);
    out.write_all(&script)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ValueEnum};

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_flags() {
        for shell in Shell::value_variants() {
            let command = Command::new("loden-test").arg(Arg::new("state").long("state-dir"));
            let mut script = Vec::new();
            write(*shell, command, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("state-dir"), "{shell:?}: {script}");
            assert!(script.contains("loden-test"), "{shell:?}: {script}");
        }
    }
}
