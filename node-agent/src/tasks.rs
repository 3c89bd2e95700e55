//! Tasks by name, none of which ends while the agent runs.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks that run until they are dropped.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, String>,
}

/// A task that ended by itself, which only a defect can bring about.
#[derive(Debug, Eq, PartialEq)]
pub struct Ended {
    /// What it was for.
    pub task: String,
    /// What it panicked with; none when it just came to its end.
    pub panic: Option<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(panic) => write!(f, "{} panicked: {panic}", self.task),
            None => write!(f, "{} has ended by itself", self.task),
        }
    }
}

impl Tasks {
    /// Starts one.
    pub(crate) fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Waits for the first one that ends; for ever when there is none.
    pub(crate) async fn ended(&mut self) -> Ended {
        let Some(joined) = self.running.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, panic) = match joined {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(message(error))),
        };
        let task = self.names.get(&id).cloned().unwrap_or_else(|| format!("task {id}"));
        Ended { task, panic }
    }

    /// Ends all of them, and waits until they have.
    pub(crate) async fn shutdown(mut self) {
        self.running.shutdown().await;
    }
}

/// What a task panicked with.
fn message(error: JoinError) -> String {
    let text = |panic: &(dyn Any + Send)| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>())
    {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without a text".to_owned(),
    };
    match error.try_into_panic() {
        Ok(panic) => text(panic.as_ref()),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_task_that_ends_is_named_with_what_it_panicked_with() {
        let mut tasks = Tasks::default();
        tasks.spawn("one that works", pending());
        tasks.spawn("one that stops", async {});
        assert_eq!(tasks.ended().await.to_string(), "one that stops has ended by itself");
        tasks.spawn("one that panics", async { panic!("index {} of 3", 7) });
        assert_eq!(tasks.ended().await.to_string(), "one that panics panicked: index 7 of 3");
        tasks.spawn("another", async { panic!("at once") });
        assert_eq!(tasks.ended().await.panic.as_deref(), Some("at once"));
        tasks.shutdown().await;
    }
}
