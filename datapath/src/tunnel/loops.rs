//! The threads of a tunnel.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::stop::Stop;

/// A thread that runs until it is dropped, or cannot go on.
#[derive(Debug)]
pub(super) struct Loop {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    pub(super) fn start(
        name: String,
        run: impl FnOnce(&Stop) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::new()?);
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            if let Err(error) = run(&told) {
                tracing::warn!(tunnel = name, %error, "a loop of the tunnel has ended");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.set();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a loop of the tunnel had panicked");
        }
    }
}
