//! What is where in etcd. Pure.
//!
//! ```text
//!  PREFIX/format              "1"
//!  PREFIX/head                head (`journal`)                          compared by every transaction
//!  PREFIX/records/KEY         mod revision u64 (little endian), value
//!  PREFIX/log/REVISION        nonce u128 (little endian), group (`journal`); REVISION of its first batch, 20 digits
//!  PREFIX/replicas/NAME       what a replica tells the others
//!
//!  head, records and log are sealed (`seal`) for their own names
//! ```

use bytes::Bytes;

use super::super::{
    Batch, Key, Loaded, Record, Revision, RollingHash,
    journal::{self, Head},
    seal,
    state::{Group, Staged, State},
};

/// The version of this layout.
pub(super) const FORMAT: &str = "1";
const NONCE: usize = 16;

/// Which attempt to commit a group has written.
pub(super) type Nonce = u128;

/// The names below a prefix.
#[derive(Debug, Clone)]
pub(super) struct Names(String);

/// What a transaction does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    pub(super) puts: Vec<(String, Vec<u8>)>,
    pub(super) deletes: Vec<String>,
    /// Everything in the log before this name goes.
    pub(super) trim: Option<String>,
}

/// A group of the log, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) nonce: Nonce,
    pub(super) before: RollingHash,
    pub(super) batches: Vec<Batch>,
}

impl Names {
    /// Below a prefix without a `/` at its end.
    pub(super) fn new(prefix: &str) -> Self {
        Self(format!("{prefix}/"))
    }

    pub(super) fn all(&self) -> &str {
        &self.0
    }

    pub(super) fn format(&self) -> String {
        format!("{}format", self.0)
    }

    pub(super) fn head(&self) -> String {
        format!("{}head", self.0)
    }

    /// Whether there is no store without what has this key.
    pub(super) fn is_vital(&self, key: &[u8]) -> bool {
        [self.format(), self.head()].iter().any(|name| name.as_bytes() == key)
    }

    pub(super) fn records(&self) -> String {
        format!("{}records/", self.0)
    }

    pub(super) fn log(&self) -> String {
        format!("{}log/", self.0)
    }

    /// The group that begins with a revision. Names are in the order of revisions.
    pub(super) fn group(&self, first: Revision) -> String {
        format!("{}{:020}", self.log(), first.0)
    }

    pub(super) fn replicas(&self) -> String {
        format!("{}replicas/", self.0)
    }

    /// The name of the replica that has this key.
    pub(super) fn replica<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.replicas())
    }

    /// What makes `staged`, decided on `state`, durable.
    pub(super) fn writes(&self, state: &State, staged: &Staged, nonce: Nonce) -> Writes {
        let mut writes = Writes::default();
        for (key, held) in staged.records() {
            let name = format!("{}{key}", self.records());
            match held {
                Some(held) => writes.put(name, &encode_record(held.mod_revision, &held.value)),
                None => writes.deletes.push(name),
            }
        }
        if let Some(group) = Group::of(staged.batches()) {
            let before = state.hash().0.to_le_bytes();
            writes.put(self.group(group.first), &encode_entry(nonce, &[&before, staged.encoded()]));
        }
        writes.put(self.head(), &Head::after(staged).encode());
        let last = state.outgrown(staged).last();
        writes.trim = last.map(|last| self.group(Revision(last.first.0 + last.batches as u64)));
        writes
    }

    /// What a store holds that is made as a copy.
    pub(super) fn copy(&self, loaded: &Loaded) -> Vec<(String, Vec<u8>)> {
        let mut writes = Writes::default();
        for record in &loaded.records {
            let name = format!("{}{}", self.records(), record.key);
            writes.put(name, &encode_record(record.mod_revision, &record.value));
        }
        for (batches, before) in journal::regroup(loaded) {
            if let Some(group) = Group::of(batches) {
                let encoded = journal::encode(before, batches);
                writes.put(self.group(group.first), &encode_entry(Nonce::default(), &[&encoded]));
            }
        }
        writes.put(self.head(), &Head::of(loaded).encode());
        writes.puts
    }

    /// The head of an empty store.
    pub(super) fn first_head(&self) -> Vec<u8> {
        seal::seal(self.head().as_bytes(), &Head::default().encode())
    }

    /// The head from its value; `None` if it is none.
    pub(super) fn read_head(&self, value: &[u8]) -> Option<Head> {
        Head::decode(seal::unseal(self.head().as_bytes(), value)?)
    }

    /// A record from its name and value; `None` if it is none.
    pub(super) fn record(&self, name: &[u8], value: &[u8]) -> Option<Record> {
        let key = std::str::from_utf8(name).ok()?.strip_prefix(&self.records())?;
        let (revision, value) = journal::number(seal::unseal(name, value)?)?;
        Some(Record {
            key: Key::from(key),
            value: Bytes::copy_from_slice(value),
            mod_revision: Revision(revision),
        })
    }

    /// A group of the log from its name and value; `None` if it is none.
    pub(super) fn entry(&self, name: &[u8], value: &[u8]) -> Option<Entry> {
        let first = std::str::from_utf8(name).ok()?.strip_prefix(&self.log())?.parse().ok()?;
        let (nonce, group) = seal::unseal(name, value)?.split_first_chunk::<NONCE>()?;
        let (batches, before) = journal::decode(Revision(first), group)?;
        Some(Entry { nonce: Nonce::from_le_bytes(*nonce), before, batches })
    }
}

impl Writes {
    fn put(&mut self, name: String, payload: &[u8]) {
        let sealed = seal::seal(name.as_bytes(), payload);
        self.puts.push((name, sealed));
    }
}

fn encode_record(mod_revision: Revision, value: &[u8]) -> Vec<u8> {
    [&mod_revision.0.to_le_bytes()[..], value].concat()
}

/// Of an encoded group, in any number of parts.
fn encode_entry(nonce: Nonce, group: &[&[u8]]) -> Vec<u8> {
    [&nonce.to_le_bytes(), &*group.concat()].concat()
}

#[cfg(test)]
mod tests {
    use super::{super::super::Change, *};

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.into(), value: vec![7; bytes].into() }
    }

    #[test]
    fn what_is_written_reads_back() {
        let names = Names::new("/loden");
        let state = State::empty(1 << 20);
        let mut staged = Staged::on(&state);
        staged.stage(&state, vec![put("a/b", 5000), put("c", 0)], &[]).unwrap();
        staged.stage(&state, vec![Change::Delete { key: "c".into() }], &[]).unwrap();
        let writes = names.writes(&state, &staged, 42);
        assert_eq!(writes.deletes, ["/loden/records/c"]);
        assert_eq!(writes.trim, None);
        let value = |name: &str| &writes.puts.iter().find(|(put, _)| put == name).unwrap().1[..];
        let record = names.record(b"/loden/records/a/b", value("/loden/records/a/b")).unwrap();
        assert_eq!((&*record.key, record.value.len(), record.mod_revision), ("a/b", 5000, Revision(1)));
        let log = "/loden/log/00000000000000000001";
        let entry = names.entry(log.as_bytes(), value(log)).unwrap();
        assert_eq!((entry.nonce, entry.before), (42, RollingHash::default()));
        assert_eq!(entry.batches, staged.batches());
        assert_eq!(names.read_head(value("/loden/head")), Some(Head::after(&staged)));
        assert_eq!(names.entry(b"/loden/log/00000000000000000002", value(log)), None);
        assert_eq!(names.record(b"/loden/records/a/c", value("/loden/records/a/b")), None);
    }

    #[test]
    fn a_log_is_trimmed_to_the_first_group_that_stays() {
        let names = Names::new("");
        let mut state = State::empty(1000);
        let trims: Vec<_> = (0..4)
            .map(|n| {
                let mut staged = Staged::on(&state);
                staged.stage(&state, vec![put("a", 600)], &[]).unwrap();
                let trim = names.writes(&state, &staged, n).trim;
                state.publish(staged);
                trim
            })
            .collect();
        let third = Some("/log/00000000000000000002".to_owned());
        assert_eq!(trims, [None, None, third, Some("/log/00000000000000000003".to_owned())]);
    }

    #[test]
    fn names_of_replicas_and_of_what_makes_a_store_are_found_again() {
        let names = Names::new("/loden");
        assert!(names.is_vital(b"/loden/head") && names.is_vital(b"/loden/format"));
        assert!(!names.is_vital(b"/loden/replicas/head") && !names.is_vital(b"/loden/headless"));
        assert_eq!(names.replica(b"/loden/replicas/control-1"), Some("control-1"));
        assert_eq!(names.replica(b"/loden/head"), None);
    }
}
