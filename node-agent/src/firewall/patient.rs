//! A packet filter that may take its time: who waits for it says so.
//!
//! Where rules are many, nft takes seconds; where it hangs, it is ended much later. Until then the
//! answer is only late.

use std::pin::pin;
use std::time::Duration;

use loden_datapath::firewall::{Chain, Edit, Firewall, FirewallError, FirewallHints};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::status::Filter;

/// Longer than all but the largest rule sets take.
const LATE: Duration = Duration::from_secs(5);

/// A packet filter whose lateness is told; whoever publishes the filters afterwards takes it back.
pub(super) struct Patient<F> {
    firewall: F,
    filters: Vec<watch::Sender<Filter>>,
}

impl<F> Patient<F> {
    pub(super) fn new(firewall: F, filters: impl Iterator<Item = watch::Sender<Filter>>) -> Self {
        Self { firewall, filters: filters.collect() }
    }
}

impl<F: Firewall> Firewall for Patient<F> {
    async fn table(&mut self) -> Result<Option<String>, FirewallError> {
        answer(&self.filters, self.firewall.table()).await
    }

    async fn replace(&mut self, table: Option<&str>) -> Result<(), FirewallError> {
        answer(&self.filters, self.firewall.replace(table)).await
    }

    async fn others(&mut self) -> Result<Vec<Chain>, FirewallError> {
        answer(&self.filters, self.firewall.others()).await
    }

    async fn edit(&mut self, edits: &[Edit]) -> Result<(), FirewallError> {
        answer(&self.filters, self.firewall.edit(edits)).await
    }

    async fn hints(&mut self) -> Result<FirewallHints, FirewallError> {
        answer(&self.filters, self.firewall.hints()).await
    }
}

async fn answer<T>(filters: &[watch::Sender<Filter>], answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    if let Ok(answer) = timeout(LATE, &mut answer).await {
        return answer;
    }
    let late = format!("nft has not answered for {LATE:?}: what it is asked for waits");
    for filter in filters {
        filter.send_modify(|filter| {
            if !filter.masquerades && filter.failed.is_none() {
                filter.failed = Some(late.clone());
            }
            if !filter.warnings.contains(&late) {
                filter.warnings.push(late.clone());
            }
        });
    }
    answer.await
}
