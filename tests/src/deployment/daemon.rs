//! A program of somebody else's on a host: it can be killed, held and started again.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::hosts::{Host, Process};

/// A program on a host, with the arguments that it is always started with.
#[derive(Debug)]
pub struct Daemon {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    /// The host that it runs on.
    pub host: Host,
    program: String,
    arguments: Vec<OsString>,
}

impl Daemon {
    /// Does not start it. Its log is named after the program.
    #[must_use]
    pub fn new(host: Host, program: &str, arguments: Vec<OsString>) -> Self {
        Self { process: None, host, program: program.to_owned(), arguments }
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.process = Some(self.host.spawn(&self.program, command)?);
        Ok(())
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().with_context(|| self.down())?;
        Ok(process.kill9().await?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.process.as_ref().with_context(|| self.down())?.signal(signal)?)
    }

    fn down(&self) -> String {
        format!("{} on {} does not run", self.program, self.host.name())
    }
}
