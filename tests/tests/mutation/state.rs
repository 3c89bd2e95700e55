//! What is ours in a kernel, and what is not.

use std::collections::BTreeSet;

use loden_tests::hosts::{Error, Host};

use crate::world::DEVICE;

/// All objects that stay, a line for each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct State {
    /// Of the tunnel.
    pub(crate) ours: BTreeSet<String>,
    /// Of all other devices.
    foreign: BTreeSet<String>,
}

impl State {
    /// Without the tunnel nothing is ours.
    pub(crate) async fn of(host: &Host) -> Result<Self, Error> {
        let objects = host.objects().await?;
        let named = format!("IfName(\"{DEVICE}\")");
        let tunnel = objects.iter().find(|object| object.line.contains(&named)).map(|object| object.device);
        let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for object in objects {
            if Some(object.device) == tunnel {
                ours.insert(object.line);
            } else {
                foreign.insert(format!("device {}: {}", object.device, object.line));
            }
        }
        Ok(Self { ours, foreign })
    }

    /// What differs, for people.
    pub(crate) fn differs_from(&self, wanted: &Self) -> Option<String> {
        let side = |name: &str, now: &BTreeSet<String>, wanted: &BTreeSet<String>| {
            let lacks: Vec<_> = wanted.difference(now).collect();
            let more: Vec<_> = now.difference(wanted).collect();
            (!lacks.is_empty() || !more.is_empty())
                .then(|| format!("{name}: lacks {lacks:#?}, has {more:#?}"))
        };
        let ours = side("ours", &self.ours, &wanted.ours);
        ours.or_else(|| side("not ours", &self.foreign, &wanted.foreign))
    }
}
