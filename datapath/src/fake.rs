//! A datapath in memory: for tests of agents, and for clusters in one process.
//!
//! It does what a kernel does to itself ([`Step::apply`]), records what was
//! executed and fails on demand. Clones share one state, so a test keeps one
//! and hands out the other.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::facts::{HostFacts, RouteLookup};
use crate::hint::{Hint, Hints, Scope};
use crate::name::DeviceName;
use crate::plan::Plan;
use crate::step::Step;
use crate::tables::{RouteKey, Tables};
use crate::{Datapath, Error, Host, Report, Rungs, Writes};

/// Decides which steps fail.
type Fault = Box<dyn FnMut(&Step) -> Option<Error> + Send>;

/// A datapath in memory.
#[derive(Clone, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    writes: Writes,
    broken: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    facts: HostFacts,
    rungs: Rungs,
    unanswered: Vec<IpAddr>,
    announced: Vec<(DeviceName, Vec<IpAddr>)>,
    asked: Vec<(DeviceName, Vec<IpAddr>)>,
    executed: Vec<Step>,
    observations: usize,
    fault: Option<Fault>,
    observe_faults: VecDeque<Error>,
    hints: Vec<mpsc::Sender<Hint>>,
}

impl Fake {
    /// A kernel with nothing in it, on a host with these facts.
    #[must_use]
    pub fn new(facts: HostFacts) -> Self {
        let fake = Self::default();
        fake.with(|state| state.facts = facts);
        fake
    }

    /// What is in it now.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.with(|state| state.tables.clone())
    }

    /// Changes what is in it behind the agent's back. Say what happened with
    /// [`Self::hint`].
    pub fn change(&self, change: impl FnOnce(&mut Tables)) {
        self.with(|state| change(&mut state.tables));
    }

    /// Changes the facts about the host.
    pub fn change_facts(&self, change: impl FnOnce(&mut HostFacts)) {
        self.with(|state| change(&mut state.facts));
    }

    /// From now on every UDP tunnel leaves so much to the kernel.
    pub fn step(&self, rungs: Rungs) {
        self.with(|state| state.rungs = rungs);
    }

    /// From now on these neighbours have not answered.
    pub fn silence(&self, addresses: &[IpAddr]) {
        self.with(|state| state.unanswered = addresses.to_vec());
    }

    /// What was told to everybody on a link.
    #[must_use]
    pub fn announced(&self) -> Vec<(DeviceName, Vec<IpAddr>)> {
        self.with(|state| state.announced.clone())
    }

    /// Who was asked for on a link.
    #[must_use]
    pub fn asked(&self) -> Vec<(DeviceName, Vec<IpAddr>)> {
        self.with(|state| state.asked.clone())
    }

    /// Sends a hint to all who listen.
    pub fn hint(&self, hint: &Hint) {
        self.with(|state| state.hints.retain(|listener| listener.try_send(hint.clone()).is_ok()));
    }

    /// From now on `fault` decides which steps fail, and with which error.
    pub fn fail(&self, fault: impl FnMut(&Step) -> Option<Error> + Send + 'static) {
        self.with(|state| state.fault = Some(Box::new(fault)));
    }

    /// No step fails any more.
    pub fn heal(&self) {
        self.with(|state| {
            state.fault = None;
            state.observe_faults.clear();
        });
    }

    /// The next observation fails.
    pub fn fail_observe(&self, error: Error) {
        self.with(|state| state.observe_faults.push_back(error));
    }

    /// Ends as a kernel's worker does that panics: [`Datapath::failed`]
    /// resolves, and nothing is done any more.
    pub fn end(&self) {
        self.broken.send_replace(true);
    }

    /// All steps that were executed so far, the failed ones left out.
    #[must_use]
    pub fn executed(&self) -> Vec<Step> {
        self.with(|state| state.executed.clone())
    }

    /// How often it was observed.
    #[must_use]
    pub fn observations(&self) -> usize {
        self.with(|state| state.observations)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere leaves whole tables: every step is one assignment.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Datapath for Fake {
    async fn observe(&mut self, scope: &Scope) -> Result<Tables, Error> {
        if *self.broken.borrow() {
            return Err(Error::Closed);
        }
        self.with(|state| {
            state.observations += 1;
            match state.observe_faults.pop_front() {
                Some(error) => Err(error),
                None => Ok(of_network(&state.tables, scope)),
            }
        })
    }

    async fn execute(&mut self, plan: &Plan) -> Report {
        if *self.broken.borrow() {
            return Report::closed(plan);
        }
        let writes = self.writes.clone();
        self.with(|state| {
            let mut report = Report::default();
            for step in plan.steps() {
                writes.add(1);
                match state.fault.as_mut().and_then(|fault| fault(step)) {
                    Some(error) => report.failed.push((step.clone(), error)),
                    None => {
                        step.apply(&mut state.tables);
                        state.executed.push(step.clone());
                        report.executed += 1;
                    }
                }
            }
            report
        })
    }

    async fn rungs(&mut self, device: DeviceName) -> Option<Rungs> {
        self.with(|state| state.tables.listening.contains_key(&device).then(|| state.rungs.clone()))
    }

    fn writes(&self) -> Writes {
        self.writes.clone()
    }

    fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut broken = self.broken.subscribe();
        async move {
            if broken.wait_for(|broken| *broken).await.is_err() {
                // Whoever could end it is gone.
                std::future::pending().await
            }
        }
    }
}

impl Host for Fake {
    async fn facts(&mut self) -> Result<HostFacts, Error> {
        Ok(self.with(|state| state.facts.clone()))
    }

    async fn route_to(&mut self, address: IpAddr) -> Result<Option<RouteLookup>, Error> {
        Ok(self.with(|state| {
            let on_link = state.facts.connected.iter().find(|(_, net)| net.contains(&address));
            if let Some((device, _)) = on_link {
                return Some(RouteLookup { device: *device, gateway: None, source: None });
            }
            let mut defaults = state.facts.default_routes.iter();
            let route = defaults.find(|route| route.family == loden_proto::model::Family::of(address))?;
            Some(RouteLookup { device: route.device, gateway: route.gateway, source: None })
        }))
    }

    async fn unanswered(&mut self, _: u32) -> Result<Vec<IpAddr>, Error> {
        Ok(self.with(|state| state.unanswered.clone()))
    }

    async fn announce(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.with(|state| state.announced.push((device, addresses.to_vec())));
        Ok(())
    }

    async fn ask(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.with(|state| state.asked.push((device, addresses.to_vec())));
        Ok(())
    }

    async fn hints(&mut self) -> Result<Hints, Error> {
        let (sender, receiver) = mpsc::channel(1024);
        self.with(|state| state.hints.push(sender));
        Ok(receiver)
    }
}

/// The part of the tables on devices of a network.
fn of_network(tables: &Tables, scope: &Scope) -> Tables {
    let mut part = tables.clone();
    part.devices.retain(|name, device| scope.has(*name, device));
    let Tables {
        devices,
        sysctls,
        addresses,
        fdb,
        neighbours,
        listening,
        remotes,
        routes,
        blackholes,
        rivals,
    } = &mut part;
    sysctls.retain(|key, _| devices.contains_key(&key.device));
    addresses.retain(|key, _| devices.contains_key(&key.device));
    fdb.retain(|key, _| devices.contains_key(&key.device));
    neighbours.retain(|key, _| devices.contains_key(&key.device));
    listening.retain(|device, _| devices.contains_key(device));
    remotes.retain(|key, _| devices.contains_key(&key.device));
    let covers = |key: &RouteKey| scope.covers(&key.prefix) || scope.is_nobodys(&key.prefix);
    blackholes.retain(|key, ()| covers(key));
    rivals.retain(|rival, ()| scope.covers(&rival.key.prefix));
    let elsewhere = |device: &DeviceName| tables.devices.contains_key(device);
    routes.retain(|key, route| {
        devices.contains_key(&route.device) || (covers(key) && !elsewhere(&route.device))
    });
    part
}
