//! The store of a single control plane: sled, one thread that writes, and a disk that is told to hurry.
//!
//! ```text
//!  commit ──▶ queue ──▶ committer thread: stage ▶ one transaction ▶ flush ▶ fdatasync ▶ publish ▶ answer
//!                           │                    journal, head; beside it a page of all records, now and then
//!                           │ any error or panic
//!                           ▼
//!                       poisoned: the handle is never touched again; a probe looks for a disk that works
//! ```
//!
//! Sled's own flush ends in `sync_file_range`, which survives a killed process but not a power cut, hence
//! the `fdatasync` of our own descriptor. After an error sled may hang, or show rows of a transaction that
//! failed, hence no second try on the same handle: whoever owns the process starts it anew.
//!
//! What a write costs sled hardly depends on its length. So a commit writes its group of the journal and no record;
//! now and then all records are written, many at a time, and opening replays the journal after them (`checkpoint`).

mod ballast;
mod checkpoint;
mod committer;
mod copy;
mod database;
mod error;
mod layout;
mod open;
mod read;
mod snapshot;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{oneshot, watch};

use self::checkpoint::Checkpoints;
pub use self::error::OpenError;
use super::{
    Batch, Cause, Change, CommitError, Guard, HISTORY_BYTES, Health, Loaded, Others, Revision, Store,
    StoreError, commit,
    follow::Published,
    queue::{Command, Queue},
    state::State,
};

/// How a store is kept; the defaults are right for production.
#[derive(Debug, Clone)]
pub struct Options {
    history_bytes: usize,
    fdatasync: bool,
}

impl Options {
    /// Keeps at least `bytes` of history, counted in keys and values.
    #[must_use]
    pub const fn with_history(mut self, bytes: usize) -> Self {
        self.history_bytes = bytes;
        self
    }

    /// Leaves out the `fdatasync` before each answer, so that a power cut loses what was answered. For the
    /// control run of the power-cut test only: it shows that the test can fail.
    #[doc(hidden)]
    #[must_use]
    pub const fn without_fdatasync(mut self) -> Self {
        self.fdatasync = false;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { history_bytes: HISTORY_BYTES, fdatasync: true }
    }
}

/// A store in a directory of its own.
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    published: Arc<Published>,
    queue: Arc<Queue>,
    /// Closed by the committer thread when it is done with the files.
    done: watch::Receiver<()>,
}

impl SledStore {
    /// The file in its directory that is locked as long as somebody has it open.
    pub const LOCK: &str = "lock";

    /// Opens the store in `dir`, or creates it, and reads all of it. Only one process can have it open.
    pub async fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let queue = Arc::new(Queue::new());
        let (opened, outcome) = oneshot::channel();
        let (done_here, done) = watch::channel(());
        let thread_failed =
            |source| OpenError::Io { action: "start a thread for", path: dir.to_owned(), source };
        thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn({
                let (dir, queue) = (dir.to_owned(), Arc::clone(&queue));
                move || {
                    serve(&dir, &options, &queue, opened);
                    drop(done_here);
                }
            })
            .map_err(thread_failed)?;
        let published = outcome.await.map_err(|_| OpenError::Panicked { dir: dir.to_owned() })??;
        thread::Builder::new()
            .name("store-watch".to_owned())
            .spawn({
                let (dir, queue) = (dir.to_owned(), Arc::clone(&queue));
                move || committer::supervise(&dir, &queue)
            })
            .map_err(thread_failed)?;
        Ok(Self { dir: dir.to_owned(), published, queue, done })
    }

    /// Makes a store in `dir`, where there must be nothing, with the contents of another one.
    ///
    /// # Errors
    /// There is something, or it cannot be written; then there is nothing afterwards.
    pub async fn create_copy(dir: &Path, loaded: Loaded) -> Result<(), OpenError> {
        let (here, dir) = (dir.to_owned(), dir.to_owned());
        let made = tokio::task::spawn_blocking(move || copy::create(&here, &loaded));
        made.await.map_err(|_| OpenError::Panicked { dir })?
    }

    /// Whether there is a store in `dir`, or something that sled has made.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(database::FILE).is_file()
    }

    /// The directory that holds the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the commits that wait, then lets go of the files.
    pub async fn close(self) {
        self.queue.close();
        let mut done = self.done.clone();
        // Nothing is ever sent: an error means that the thread has ended.
        let _ = done.changed().await;
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store for SledStore {
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        std::future::ready(Ok(self.published.state().loaded()))
    }

    fn commit(
        &self,
        changes: Vec<Change>,
        guards: Vec<Guard>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + use<> {
        let queued = commit::check(&changes, &guards)
            .map_err(CommitError::from)
            .and_then(|()| self.queue.push(Command { changes, guards }));
        async { queued?.await.map_err(|_| CommitError::Unknown)? }
    }

    fn follow(&self, after: Revision) -> impl Stream<Item = Result<Batch, StoreError>> + Send + use<> {
        self.published.follow(after)
    }

    fn newest(&self) -> impl Future<Output = Result<Revision, Cause>> + Send + 'static + use<> {
        std::future::ready(Ok(self.published.state().revision()))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn announce(&self, _note: Bytes) {
        // Nobody else has it open.
    }

    fn others(&self) -> watch::Receiver<Others> {
        watch::channel(Others::default()).1
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.queue.health()
    }
}

/// The committer thread: sled's handle is made, used and dropped here.
fn serve(
    dir: &Path,
    options: &Options,
    queue: &Queue,
    opened: oneshot::Sender<Result<Arc<Published>, OpenError>>,
) {
    let (database, contents) = match open::open(dir, options.fdatasync) {
        Ok(parts) => parts,
        Err(error) => {
            // Nobody waits any more if the caller gave up on opening.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let checkpoints = Checkpoints::new(&contents, options.history_bytes);
    let mut state = State::restored(contents.loaded, contents.groups, options.history_bytes);
    state.need_after(checkpoints.base().revision);
    let published = Arc::new(Published::new(state));
    if opened.send(Ok(Arc::clone(&published))).is_ok() {
        committer::run(database, checkpoints, &published, queue);
    }
}

#[cfg(test)]
mod tests;
