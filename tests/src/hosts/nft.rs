//! nft: somebody else's rules, and a look at all of them.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::{Error, Namespace, error::Doing};

impl Namespace {
    /// Has nft run commands in the namespace; answers what it prints.
    pub fn nft(&self, commands: &str) -> Result<String, Error> {
        let what = || format!("have nft run \"{commands}\" in {}", self.full_name());
        let run = || -> io::Result<Output> {
            let mut command = Command::new("nft");
            command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(commands.as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = self.enter(run).doing(what)?;
        if !output.status.success() {
            return Err(Error::new(what(), String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        String::from_utf8(output.stdout).doing(what)
    }
}
