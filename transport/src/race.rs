//! Several ways to the same end, begun one after another (RFC 8305 §5): one that says nothing does not hold up the
//! next, and the first one that leads there wins.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

/// After this a way that has not failed is not waited for before the next is tried as well.
const PATIENCE: Duration = Duration::from_millis(250);

/// Answers the first success, or all failures in the order of the ways.
pub(crate) async fn race<T, E, F>(ways: impl IntoIterator<Item = F>) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut begun = FuturesUnordered::new();
    let mut failures = Vec::new();
    for (index, way) in ways.into_iter().enumerate() {
        begun.push(async move { (index, way.await) });
        match timeout(PATIENCE, begun.next()).await {
            Ok(Some((_, Ok(end)))) => return Ok(end),
            Ok(Some((index, Err(failure)))) => failures.push((index, failure)),
            Ok(None) | Err(_) => {}
        }
    }
    while let Some((index, result)) = begun.next().await {
        match result {
            Ok(end) => return Ok(end),
            Err(failure) => failures.push((index, failure)),
        }
    }
    failures.sort_by_key(|(index, _)| *index);
    Err(failures.into_iter().map(|(_, failure)| failure).collect())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    /// What a way does: fails or succeeds after some milliseconds, or never ends.
    async fn way(after: Option<u64>, result: Result<u8, u8>) -> Result<u8, u8> {
        match after {
            Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
            None => pending().await,
        }
        result
    }

    #[tokio::test(start_paused = true)]
    async fn silent_ways_hold_nobody_up() {
        let begun = Instant::now();
        let ways = [way(None, Err(0)), way(None, Err(1)), way(None, Err(2)), way(Some(10), Ok(3))];
        assert_eq!(race(ways).await, Ok(3));
        assert_eq!(begun.elapsed(), PATIENCE * 3 + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_fails_is_followed_by_the_next_at_once_and_one_that_is_late_still_wins() {
        let begun = Instant::now();
        assert_eq!(race([way(Some(1), Err(0)), way(Some(5), Ok(1))]).await, Ok(1));
        assert_eq!(begun.elapsed(), Duration::from_millis(6));
        assert_eq!(race([way(Some(400), Ok(0)), way(Some(3000), Ok(1))]).await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told_in_the_order_of_the_ways() {
        let failures = race([way(Some(900), Err(0)), way(Some(1), Err(1)), way(Some(100), Err(2))]).await;
        assert_eq!(failures, Err(vec![0, 1, 2]));
        assert_eq!(race::<u8, u8, std::future::Ready<_>>([]).await, Err(Vec::new()));
    }
}
