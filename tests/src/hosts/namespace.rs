//! One network namespace: its name, a way in, and its netlink connection.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    panic,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime,
};

use super::{
    Error, Process,
    error::Doing,
    record::{NAMESPACES, Record},
};

/// A network namespace of a lab. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    full_name: String,
    pub(super) file: Arc<File>,
    pub(super) record: Arc<Record>,
    pub(super) netlink: rtnetlink::Handle,
}

impl Namespace {
    /// Makes a namespace with `lo` up.
    pub(super) async fn create(record: &Arc<Record>, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        let full_name = record.namespace(name);
        let path = Path::new(NAMESPACES).join(&full_name);
        prepare_directory().doing(|| format!("prepare {NAMESPACES} (a lab needs root)"))?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .doing(|| format!("name namespace {full_name}"))?;
        in_new_thread(|| bind_new_namespace(&path))
            .doing(|| format!("make namespace {full_name} (a lab needs root)"))?;
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        let netlink = connect(&file).doing(|| format!("open netlink in {full_name}"))?;
        let namespace = Self {
            name: name.to_owned(),
            full_name,
            file: Arc::new(file),
            record: Arc::clone(record),
            netlink,
        };
        namespace.set_up("lo").await?;
        Ok(namespace)
    }

    /// The name within the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name for `ip netns exec`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// The file that stands for the namespace, for `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.full_name)
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets made
    /// there stay in the namespace.
    ///
    /// # Panics
    /// If `work` does, or if the kernel refuses the way in.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_new_thread(|| {
            if let Err(error) = setns(&*self.file, CloneFlags::CLONE_NEWNET) {
                panic!("could not enter namespace {}: {error}", self.full_name);
            }
            work()
        })
    }

    /// The namespace's rtnetlink connection; ends with the runtime that made the namespace.
    #[must_use]
    pub fn netlink(&self) -> rtnetlink::Handle {
        self.netlink.clone()
    }

    /// Sets a value under `/proc/sys/net`, by its dotted name (`net.ipv4.ip_forward`). For
    /// names with dots in them, slashes separate (`net/ipv4/conf/eth0.5/rp_filter`).
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        self.enter(|| fs::write(Path::new("/proc/sys").join(path), value))
            .doing(|| format!("set {key} to {value} in {}", self.full_name))
    }

    /// Runs a real program inside the namespace, until it ends or its handle is dropped. Its
    /// output goes to `HOST-NAME.log` in the lab's directory; a second process of the same name
    /// appends.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process, Error> {
        Process::spawn(self, name, command)
    }

    /// Connects to `address` from inside the namespace.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.enter(|| match address.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        })?;
        socket.connect(address).await
    }
}

/// Device names are made of these, and may have 15 characters.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=10).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(format!("name a namespace {name:?}"), "a name has 1 to 10 of a-z, 0-9 and -"))
}

/// Makes `/run/netns` as iproute2 does: a shared mount, so that a name that is removed here is
/// gone in every mount namespace.
fn prepare_directory() -> io::Result<()> {
    fs::create_dir_all(NAMESPACES)?;
    let _alone = Flock::lock(File::open(NAMESPACES)?, FlockArg::LockExclusive)
        .map_err(|(_, error)| io::Error::from(error))?;
    let none = None::<&str>;
    let share = || mount(none, NAMESPACES, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(NAMESPACES), NAMESPACES, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

/// Leaves the calling thread in a new namespace that is bound to `path`.
fn bind_new_namespace(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let none = None::<&str>;
    Ok(mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?)
}

/// A socket belongs to the namespace of the thread that makes it; the connection then runs in
/// the caller's runtime.
fn connect(namespace: &File) -> io::Result<rtnetlink::Handle> {
    let runtime = runtime::Handle::current();
    let (connection, handle, _) = in_new_thread(|| {
        let _inside = runtime.enter();
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        rtnetlink::new_connection()
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A thread that has changed its namespace is never given back to anyone.
fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => panic::resume_unwind(panic),
    })
}

/// The descriptor's number, for netlink attributes and for a child between fork and exec.
impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}
