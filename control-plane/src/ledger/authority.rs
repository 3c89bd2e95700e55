//! The CA that several control planes share, sealed: one record, of which the ledger knows no more than its revision.

use super::Ledger;
use super::apply::{Corrupt, corrupt};
use super::command::{Decision, Want};
use super::key::RecordKey;
use super::record::{AuthorityRecord, decode, encode};
use super::refusal::Refusal;
use crate::store::{Change, Guard, Loaded, Revision};

impl Ledger {
    /// The shared CA, sealed, and its revision; none where it is not shared.
    #[must_use]
    pub fn shared_authority(&self) -> Option<(&str, Revision)> {
        self.authority.as_ref().map(|stored| (&*stored.record.sealed, stored.revision))
    }

    /// The shared CA, sealed, in a store that no ledger was made of yet: serving begins with the CA.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn shared_authority_of(loaded: &Loaded) -> Result<Option<String>, Corrupt> {
        let key = RecordKey::Authority.key();
        let Some(record) = loaded.records.iter().find(|record| record.key == key) else { return Ok(None) };
        let record: AuthorityRecord = decode(&record.value)
            .map_err(|error| corrupt(&record.key, format!("cannot be read: {error}")))?;
        Ok(Some(record.sealed))
    }

    /// What shares a CA where none is shared yet.
    #[must_use]
    pub fn first_shared_authority(sealed: String) -> (Vec<Change>, Vec<Guard>) {
        let key = RecordKey::Authority.key();
        let value = encode(&AuthorityRecord { sealed });
        (vec![Change::Put { key: key.clone(), value }], vec![Guard::Absent(key)])
    }

    /// Shares another CA in place of the one of a revision.
    pub(super) fn share_authority(&self, sealed: &str, after: Revision) -> Result<Decision, Refusal> {
        let key = RecordKey::Authority.key();
        if self.authority.as_ref().is_none_or(|stored| stored.revision != after) {
            return Err(Refusal::AuthorityChanged);
        }
        let value = encode(&AuthorityRecord { sealed: sealed.to_owned() });
        let guards = vec![Guard::Unchanged { key: key.clone(), revision: after }];
        Ok(Decision { changes: vec![Change::Put { key, value }], guards, more: false, want: Want::Nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::super::testing::Rig;
    use super::*;

    #[test]
    fn of_two_that_change_the_ca_one_does() {
        let mut rig = Rig::new();
        assert_eq!(rig.ledger.shared_authority(), None);
        let (changes, guards) = Ledger::first_shared_authority("first".to_owned());
        let first = rig.commit(changes.clone(), guards.clone()).unwrap();
        rig.catch_up();
        assert_eq!(rig.ledger.shared_authority(), Some(("first", first)));
        assert_eq!(Ledger::shared_authority_of(&rig.loaded()), Ok(Some("first".to_owned())));
        assert!(rig.commit(changes, guards).is_err());
        let share = |sealed: &str| Command::ShareAuthority { sealed: sealed.to_owned(), after: first };
        rig.must(share("second"));
        assert_eq!(rig.ledger.shared_authority().map(|(sealed, _)| sealed), Some("second"));
        assert_eq!(rig.refused(share("third")), Refusal::AuthorityChanged);
    }
}
