//! Short histories for the rules' tests: times in seconds, leases of the network `blue`.

use std::time::Duration;

use super::{Call, Held, History, Look, Outcome, Rule, Scope, Slot, Thing, Wish};

pub(super) fn lease(node: &str) -> Thing {
    Thing::lease("blue", node)
}

/// Of 10.1.`third`.0/24.
pub(super) fn held(third: u8, epoch: u64, instance: u128) -> Held {
    let subnet = format!("10.1.{third}.0/24").parse().unwrap();
    Held { slots: vec![Slot::Subnet(subnet)], epoch, instance }
}

/// Of a network.
pub(super) fn vni(vni: u32) -> Held {
    Held { slots: vec![Slot::Vni(vni)], epoch: 0, instance: 0 }
}

impl History {
    pub(super) fn call(mut self, thing: Thing, at: (u64, u64), wish: Wish, outcome: Outcome) -> Self {
        let (begin, end) = (Duration::from_secs(at.0), Duration::from_secs(at.1));
        self.calls.push(Call { thing, wish, begin, end, outcome });
        self
    }

    /// Takes what it is answered.
    pub(super) fn took(self, thing: Thing, at: (u64, u64), held: Held) -> Self {
        let wish = Wish::Take { instance: held.instance };
        self.call(thing, at, wish, Outcome::Done(Some(held)))
    }

    pub(super) fn gave(self, thing: Thing, at: (u64, u64), epoch: u64) -> Self {
        self.call(thing, at, Wish::Give { epoch }, Outcome::Done(None))
    }

    /// A list of the leases of `blue`.
    pub(super) fn look<const N: usize>(
        self,
        replica: usize,
        at: (u64, u64),
        revision: u64,
        things: [(Thing, Held); N],
    ) -> Self {
        self.look_at(Scope::Leases("blue".to_owned()), replica, at, revision, things)
    }

    pub(super) fn look_at<const N: usize>(
        mut self,
        scope: Scope,
        replica: usize,
        at: (u64, u64),
        revision: u64,
        things: [(Thing, Held); N],
    ) -> Self {
        let (begin, end) = (Duration::from_secs(at.0), Duration::from_secs(at.1));
        let things = things.into_iter().collect();
        self.looks.push(Look { replica, begin, end, revision, scope, things, last: false });
        self
    }

    /// Makes the latest look one of the last.
    pub(super) fn last(mut self) -> Self {
        self.looks.last_mut().unwrap().last = true;
        self
    }

    /// The rules that are broken.
    pub(super) fn broken(&self) -> Vec<Rule> {
        self.check().into_iter().map(|violation| violation.rule).collect()
    }
}
