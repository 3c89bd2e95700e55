//! Waiting for what sends no event.

use std::{fmt::Display, time::Duration};

const INTERVAL: Duration = Duration::from_millis(10);

/// A condition that did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {waited:?} for {what}: {reason}")]
pub struct TimedOut {
    what: String,
    waited: Duration,
    reason: String,
}

/// Asks `condition` every 10 ms until it answers `Ok`, at most for `timeout` (tokio's time).
/// `what` completes "waited for …"; the last `Err` becomes the reason of the failure.
///
/// The condition may be any closure that answers a future, `async || …` among them.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, TimedOut> {
    let begin = tokio::time::Instant::now();
    let mut reason = "the condition never answered".to_owned();
    let poll = async {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            match condition().await {
                Ok(value) => return value,
                Err(error) => reason = error.to_string(),
            }
        }
    };
    let outcome = tokio::time::timeout(timeout, poll).await;
    outcome.map_err(|_| TimedOut { what: what.to_owned(), waited: begin.elapsed(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_answers_what_the_condition_found() {
        let asked = std::cell::Cell::new(0);
        let found = until("three", Duration::from_secs(1), async || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 { Ok(3) } else { Err(format!("only {asked:?}")) }
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_names_what_was_awaited_and_the_last_reason() {
        let never =
            until("node-2 to be ready", Duration::from_secs(1), async || Err::<(), _>("it has no lease"));
        let error = never.await.unwrap_err().to_string();
        assert!(error.ends_with("for node-2 to be ready: it has no lease"), "{error}");
    }
}
