//! Opening: reads all of a store at one revision, and checks it.

use std::sync::Arc;

use etcd_client::{Error, GetOptions, GetResponse, KeyValue};
use tokio::sync::Mutex;

use super::super::{follow::Published, journal, state::State};
use super::EtcdOptions;
use super::error::EtcdError;
use super::ground::{Ground, Standing, end_of};
use super::layout::{FORMAT, Names};
use super::make::HALF;
use super::members::Members;

/// Keys that are read at a time.
const PAGE: i64 = 1000;

/// Reads everything.
pub(super) async fn open(options: &EtcdOptions) -> Result<Ground, EtcdError> {
    let reader = Reader::new(options);
    reader.check_format().await?;
    let (state, head) = reader.read().await?;
    let Reader { members, names, .. } = reader;
    Ok(Ground {
        members,
        names,
        published: Arc::new(Published::new(state)),
        standing: Mutex::new(Standing::at(head)),
    })
}

/// The names of those that have the store open.
pub(super) async fn users(ground: &Ground, options: &EtcdOptions) -> Result<Vec<String>, EtcdError> {
    let names = &ground.names;
    let etcd = |source| EtcdError::Etcd { address: options.address.clone(), source };
    let member = ground.members.member().await.map_err(etcd)?;
    let ranged = GetOptions::new().with_range(end_of(&names.replicas())).with_keys_only();
    let found = member.kv().get(names.replicas(), Some(ranged)).await.map_err(etcd)?;
    Ok(found.kvs().iter().filter_map(|pair| names.replica(pair.key())).map(str::to_owned).collect())
}

/// Reads a store, of whichever member answers.
pub(super) struct Reader<'a> {
    options: &'a EtcdOptions,
    pub(super) members: Members,
    pub(super) names: Names,
}

impl<'a> Reader<'a> {
    pub(super) fn new(options: &'a EtcdOptions) -> Self {
        Self { options, members: Members::new(options), names: Names::new(&options.address.prefix) }
    }

    pub(super) fn failed(&self, source: Error) -> EtcdError {
        EtcdError::Etcd { address: self.options.address.clone(), source }
    }

    /// Asks one member after the other, each once.
    pub(super) async fn get(&self, key: &[u8], options: &GetOptions) -> Result<GetResponse, EtcdError> {
        let mut failed = None;
        for _ in 0..self.members.count() {
            let asked = match self.members.member().await {
                Ok(member) => match member.kv().get(key, Some(options.clone())).await {
                    Ok(got) => return Ok(got),
                    Err(error) => {
                        self.members.leave(member.number).await;
                        error
                    }
                },
                Err(error) => error,
            };
            failed.get_or_insert(asked);
        }
        // There is at least one member.
        Err(self.failed(failed.unwrap_or_else(|| Error::InvalidArgs("no member".to_owned()))))
    }

    /// The format mark, if there is one.
    pub(super) async fn format(&self) -> Result<Option<String>, EtcdError> {
        let found = self.get(self.names.format().as_bytes(), &GetOptions::new()).await?;
        Ok(found.kvs().first().map(|pair| String::from_utf8_lossy(pair.value()).into_owned()))
    }

    /// Whether there is anything below the prefix.
    pub(super) async fn is_empty(&self) -> Result<bool, EtcdError> {
        let counted = GetOptions::new().with_range(end_of(self.names.all())).with_count_only();
        Ok(self.get(self.names.all().as_bytes(), &counted).await?.count() == 0)
    }

    async fn check_format(&self) -> Result<(), EtcdError> {
        let address = self.options.address.clone();
        match self.format().await?.as_deref() {
            Some(FORMAT) => Ok(()),
            Some(HALF) => Err(EtcdError::Half { address }),
            Some(found) => Err(EtcdError::Format { address, found: found.to_owned() }),
            None if self.is_empty().await? => Err(EtcdError::Absent { address }),
            None => Err(EtcdError::Foreign { address }),
        }
    }

    /// Everything at one revision; etcd's revision of the head as well.
    async fn read(&self) -> Result<(State, i64), EtcdError> {
        let names = &self.names;
        let head = self.get(names.head().as_bytes(), &GetOptions::new()).await?;
        let revision = head.header().map_or(0, |header| header.revision());
        let pair = head.kvs().first().ok_or_else(|| self.corrupt(names.head().as_bytes()))?;
        let stands = names.read_head(pair.value()).ok_or_else(|| self.corrupt(pair.key()))?;
        let mut records = Vec::new();
        self.each(&names.records(), revision, |pair| {
            names.record(pair.key(), pair.value()).map(|record| records.push(record))
        })
        .await?;
        let mut groups = Vec::new();
        self.each(&names.log(), revision, |pair| {
            names.entry(pair.key(), pair.value()).map(|entry| groups.push((entry.batches, entry.before)))
        })
        .await?;
        let (loaded, sizes) = journal::assemble(stands, records, groups)
            .map_err(|what| EtcdError::Inconsistent { address: self.options.address.clone(), what })?;
        Ok((State::restored(loaded, sizes, self.options.history_bytes), pair.mod_revision()))
    }

    /// Hands on every key below a prefix as it was at a revision.
    async fn each(
        &self,
        prefix: &str,
        revision: i64,
        mut take: impl FnMut(&KeyValue) -> Option<()>,
    ) -> Result<(), EtcdError> {
        let mut from = prefix.as_bytes().to_vec();
        let options = GetOptions::new().with_range(end_of(prefix)).with_revision(revision).with_limit(PAGE);
        loop {
            let page = self.get(&from, &options).await?;
            for pair in page.kvs() {
                take(pair).ok_or_else(|| self.corrupt(pair.key()))?;
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok(()) };
            // The first name after it.
            from = [last.key(), &[0]].concat();
        }
    }

    fn corrupt(&self, key: &[u8]) -> EtcdError {
        let key = String::from_utf8_lossy(key).into_owned();
        EtcdError::Corrupt { address: self.options.address.clone(), key }
    }
}
