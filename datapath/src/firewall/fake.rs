//! A packet filter in memory: for tests of agents, and for clusters in one process.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::chains::Chain;
use super::insert::Edit;
use super::{Firewall, FirewallError, FirewallHint, FirewallHints};

/// A packet filter in memory. Clones share one state, so a test keeps one and hands out the other.
#[derive(Clone, Debug, Default)]
pub struct FakeFirewall {
    state: Arc<Mutex<State>>,
    hangs: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct State {
    table: Option<String>,
    chains: Vec<Chain>,
    edits: Vec<Edit>,
    replaced: usize,
    fault: Option<String>,
    listeners: Vec<mpsc::Sender<FirewallHint>>,
}

impl FakeFirewall {
    /// Our table as it stands.
    #[must_use]
    pub fn listed(&self) -> Option<String> {
        self.with(|state| state.table.clone())
    }

    /// How often our table was put in place or removed.
    #[must_use]
    pub fn replaced(&self) -> usize {
        self.with(|state| state.replaced)
    }

    /// All edits so far.
    #[must_use]
    pub fn edits(&self) -> Vec<Edit> {
        self.with(|state| state.edits.clone())
    }

    /// Somebody changes our table.
    pub fn change(&self, table: Option<&str>) {
        self.with(|state| state.table = table.map(str::to_owned));
        self.hint(FirewallHint::Ours);
    }

    /// Somebody changes the tables of others.
    pub fn change_others(&self, chains: Vec<Chain>) {
        self.with(|state| state.chains = chains);
        self.hint(FirewallHint::Others);
    }

    /// From now on every change is refused with this text; `None`: it works again.
    pub fn fail(&self, fault: Option<&str>) {
        self.with(|state| state.fault = fault.map(str::to_owned));
    }

    /// From now on nothing is answered, until it does not hang any more.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    async fn answers(&self) {
        // Its sender is ours: it does not end.
        let _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
    }

    fn hint(&self, hint: FirewallHint) {
        self.with(|state| state.listeners.retain(|listener| listener.try_send(hint).is_ok()));
    }

    fn write(&self, write: impl FnOnce(&mut State)) -> Result<(), FirewallError> {
        self.with(|state| match &state.fault {
            Some(fault) => Err(FirewallError::Refused(fault.clone())),
            None => {
                write(state);
                Ok(())
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere leaves a whole state: every change is one assignment.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Firewall for FakeFirewall {
    async fn table(&mut self) -> Result<Option<String>, FirewallError> {
        self.answers().await;
        Ok(self.listed())
    }

    async fn replace(&mut self, table: Option<&str>) -> Result<(), FirewallError> {
        self.answers().await;
        self.write(|state| {
            state.table = table.map(str::to_owned);
            state.replaced += 1;
        })?;
        self.hint(FirewallHint::Ours);
        Ok(())
    }

    async fn others(&mut self) -> Result<Vec<Chain>, FirewallError> {
        self.answers().await;
        Ok(self.with(|state| state.chains.clone()))
    }

    async fn edit(&mut self, edits: &[Edit]) -> Result<(), FirewallError> {
        self.answers().await;
        self.write(|state| state.edits.extend_from_slice(edits))?;
        self.hint(FirewallHint::Others);
        Ok(())
    }

    async fn hints(&mut self) -> Result<FirewallHints, FirewallError> {
        let (sender, hints) = mpsc::channel(64);
        self.with(|state| state.listeners.push(sender));
        Ok(hints)
    }
}
