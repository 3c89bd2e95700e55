//! What uniqueness rests on: claims and what they are for say the same.

use loden_proto::names::NodeId;

use super::Ledger;
use super::apply::{Corrupt, corrupt};
use super::key::RecordKey;
use super::network::NetworkLedger;

impl Ledger {
    /// Checks that every slot, reservation and VNI is claimed by exactly who has it.
    pub(super) fn check(&self) -> Result<(), Corrupt> {
        for entry in self.networks.values() {
            self.check_vni(entry)?;
            check_leases(entry)?;
            check_reservations(entry)?;
            check_claims(entry)?;
        }
        Ok(())
    }

    fn check_vni(&self, entry: &NetworkLedger) -> Result<(), Corrupt> {
        let (id, vni) = (&entry.network.id, entry.network.vni);
        let claim = self.vnis.claim(vni).map(|claim| &claim.record);
        if claim.is_some_and(|claim| claim.network == *id && claim.cooling_until.is_none()) {
            return Ok(());
        }
        let key = RecordKey::Network(id.clone()).key();
        Err(corrupt(&key, format!("has the VNI {vni}, which is not claimed for it")))
    }
}

fn check_leases(entry: &NetworkLedger) -> Result<(), Corrupt> {
    for (node, lease) in &entry.leases {
        for slot in lease.record.subnets.iter() {
            let claim = entry.slots.claim(slot);
            if claim.is_none_or(|claim| claim.record.lease.as_ref() != Some(node)) {
                let key = RecordKey::Lease(entry.name(node)).key();
                return Err(corrupt(&key, format!("has the subnet {slot}, which is not claimed for it")));
            }
        }
    }
    Ok(())
}

fn check_reservations(entry: &NetworkLedger) -> Result<(), Corrupt> {
    for (node, reservation) in &entry.reservations {
        for slot in reservation.record.subnets.iter() {
            let claim = entry.slots.claim(slot);
            if claim.is_none_or(|claim| claim.record.reserved.as_ref() != Some(node)) {
                let key = RecordKey::Reservation(entry.name(node)).key();
                return Err(corrupt(&key, format!("has the subnet {slot}, which is not claimed for it")));
            }
        }
    }
    Ok(())
}

fn check_claims(entry: &NetworkLedger) -> Result<(), Corrupt> {
    let leased = |node: &NodeId| entry.leases.get(node).map(|lease| lease.record.subnets);
    let reserved = |node: &NodeId| entry.reservations.get(node).map(|of| of.record.subnets);
    for (slot, claim) in entry.slots.claims() {
        let key = || RecordKey::Slot(entry.network.id.clone(), slot).key();
        if entry.network.slot(slot).is_none() {
            return Err(corrupt(&key(), "is in no pool of its network"));
        }
        let claims = [
            ("lease", claim.record.lease.as_ref().map(|node| (node, leased(node)))),
            ("reservation", claim.record.reserved.as_ref().map(|node| (node, reserved(node)))),
        ];
        for (what, claim) in claims {
            if let Some((node, has)) = claim
                && has.is_none_or(|has| has.iter().all(|of| of != slot))
            {
                return Err(corrupt(
                    &key(),
                    format!("is claimed for a {what} of {node} that does not have it"),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::{Rig, acquire, network};
    use crate::store::{Batch, Change, Guard, Revision, RollingHash};

    const EMPTY: &str = r#"{"lease":null,"reserved":null,"cooling":null}"#;

    fn corrupted(key: &str, value: Option<&str>) -> Corrupt {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire("blue", "a", 1));
        let key = crate::store::Key::from(key);
        let change = match value {
            Some(value) => Change::Put { key, value: value.to_owned().into() },
            None => Change::Delete { key },
        };
        rig.commit(vec![change], Vec::<Guard>::new()).unwrap();
        Ledger::load(&rig.loaded()).unwrap_err()
    }

    #[test]
    fn a_record_that_cannot_be_read_stops_the_start_and_is_named() {
        let error = corrupted("lease/blue/a", Some("{"));
        assert!(error.to_string().starts_with("record \"lease/blue/a\" cannot be read: "), "{error}");
        assert_eq!(corrupted("leases/blue/a", Some("{}")).problem, "is not known to this version");
        assert_eq!(corrupted("cluster", Some(r#"{"incarnation":"1"}"#)).key.as_str(), "cluster");
    }

    #[test]
    fn claims_that_contradict_leases_stop_the_start() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire("blue", "a", 1));
        let slot = format!("slot/blue/{}", rig.lease("blue", "a").subnets);
        assert_eq!(corrupted(&slot, None).key.as_str(), "lease/blue/a");
        assert_eq!(corrupted("lease/blue/a", None).key.as_str(), "expiry/blue/a");
        assert_eq!(corrupted("slot/blue/10.2.1.0/24", Some(EMPTY)).problem, "is in no pool of its network");
        let foreign = corrupted("slot/blue/10.1.0.0/24", Some(&EMPTY.replace("null,\"r", "\"x\",\"r")));
        assert_eq!(foreign.problem, "is claimed for a lease of x that does not have it");
        assert_eq!(corrupted("vni/1", None).key.as_str(), "network/blue");
        assert_eq!(corrupted("network/blue", None).problem, "is of the network blue, which does not exist");
    }

    #[test]
    fn a_batch_of_a_network_that_does_not_exist_is_named() {
        let key = crate::store::Key::from("slot/blue/10.1.1.0/24");
        let changes = [Change::Delete { key: key.clone() }].into();
        let batch = Batch { revision: Revision(1), changes, hash: RollingHash::default() };
        assert_eq!(Ledger::default().apply(&batch).unwrap_err().key, key);
    }
}
