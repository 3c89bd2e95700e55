//! A runtime inside a namespace, for clients that make their own sockets.

use tokio::runtime::{Builder, Runtime};

use super::{Error, Namespace, error::Doing};

/// A runtime whose threads, and so all sockets made on it, are in one namespace. What is made on
/// it, such as a channel that connects again by itself, may be used from anywhere.
#[derive(Debug)]
pub struct Inside {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    what: String,
}

impl Namespace {
    /// Starts a runtime in the namespace.
    pub fn runtime(&self) -> Result<Inside, Error> {
        // The builder's thread starts the worker, which inherits its namespace.
        let made = self.enter(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        let what = format!("a runtime in {}", self.full_name());
        Ok(Inside { runtime: Some(made.doing(|| format!("start {what}"))?), what })
    }
}

impl Inside {
    /// Runs `work` there and waits for it.
    ///
    /// # Panics
    /// If `work` does.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        let ended = || Error::new(format!("use {}", self.what), "it has ended");
        let running = self.runtime.as_ref().ok_or_else(ended)?.spawn(work);
        match running.await {
            Ok(result) => Ok(result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ended()),
        }
    }
}

/// A runtime may not be dropped on another one's thread, which may not wait for it.
impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
