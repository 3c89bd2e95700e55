//! One agent in a network namespace: what agents keep in the kernel is the namespace's, and two would undo each
//! other's.
//!
//! A lock in the state directory would not do: two agents have two, and who cleans up may not know which one an
//! agent uses. So whoever writes has a socket with an abstract name, which belongs to the network namespace and ends
//! with the process. Anybody on the host may take such a name: who holds it is asked for, and only root and our own
//! user are believed.

use std::fmt::{self, Display};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt, socket, sockopt,
};
use nix::unistd::geteuid;
use tokio::time::sleep;

const NAME: &str = "loden-agent";
/// A holder may be about to listen, or to end.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Nobody else is an agent in this network namespace as long as it lives.
#[derive(Debug)]
pub struct Claim(UnixListener);

/// The network namespace is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Unclaimed {
    /// It would undo what we do, and we what it does.
    #[error("an agent runs, {0}, in this network namespace: stop it first")]
    Taken(Holder),
    /// Somebody has the name who cannot be an agent.
    #[error(
        "it cannot be seen whether an agent runs: the abstract socket @{NAME} is held by {0}, which is none"
    )]
    Stranger(Holder),
    /// The kernel refuses the socket.
    #[error("it cannot be seen whether an agent runs")]
    Socket(#[from] io::Error),
}

/// Who holds the name, as far as the kernel tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holder(Option<UnixCredentials>);

impl Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Processes of another namespace have no number here.
            Some(of) if of.pid() > 0 => write!(f, "process {} of user {}", of.pid(), of.uid()),
            Some(of) => write!(f, "a process of user {} in another PID namespace", of.uid()),
            None => f.write_str("a process that does not listen"),
        }
    }
}

/// Claims the network namespace of the caller.
///
/// # Errors
/// Somebody else has it.
pub async fn claim() -> Result<Claim, Unclaimed> {
    claim_as(NAME).await
}

async fn claim_as(name: &str) -> Result<Claim, Unclaimed> {
    let address = SocketAddr::from_abstract_name(name)?;
    for _ in 0..TRIES {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Claim(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        match holder(name) {
            Ok(of) => return Err(refusal(of, geteuid().as_raw())),
            Err(Errno::ECONNREFUSED) => sleep(PAUSE).await,
            // It listens and takes nobody, as no agent does.
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Err(Unclaimed::Stranger(Holder(None)))
}

/// Who listens. Without waiting for it.
fn holder(name: &str) -> Result<UnixCredentials, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let line: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(line.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    getsockopt(&line, sockopt::PeerCredentials)
}

fn refusal(of: UnixCredentials, own: u32) -> Unclaimed {
    let holder = Holder(Some(of));
    if [0, own].contains(&of.uid()) { Unclaimed::Taken(holder) } else { Unclaimed::Stranger(holder) }
}

impl Claim {
    /// Takes whoever asks, so that the next one can ask too; never ends.
    ///
    /// # Errors
    /// The socket cannot be listened on.
    pub async fn keep(self) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.0)?;
        loop {
            if listener.accept().await.is_err() {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::bind;

    use super::*;

    fn name(test: &str) -> String {
        format!("{NAME}-test-{test}-{}", std::process::id())
    }

    #[tokio::test]
    async fn a_namespace_is_ones_own_until_it_ends() {
        let name = name("one");
        let first = tokio::spawn(claim_as(&name).await.unwrap().keep());
        let own = std::process::id();
        for _ in 0..2 {
            let refused = claim_as(&name).await.unwrap_err();
            assert!(matches!(refused, Unclaimed::Taken(_)), "{refused}");
            assert!(refused.to_string().contains(&format!("an agent runs, process {own} of")), "{refused}");
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        claim_as(&name).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_does_not_listen_is_no_agent() {
        let name = name("mute");
        let mute = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(mute.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        let refused = claim_as(&name).await.unwrap_err();
        assert!(matches!(refused, Unclaimed::Stranger(_)), "{refused}");
        drop(mute);
        claim_as(&name).await.unwrap();
    }

    #[test]
    fn another_user_cannot_keep_an_agent_from_its_work() {
        let of = |user| UnixCredentials::from(nix::libc::ucred { pid: 7, uid: user, gid: 0 });
        assert!(matches!(refusal(of(0), 5), Unclaimed::Taken(_)));
        assert!(matches!(refusal(of(5), 5), Unclaimed::Taken(_)));
        let refused = refusal(of(1000), 0);
        assert!(matches!(refused, Unclaimed::Stranger(_)));
        assert!(refused.to_string().contains("held by process 7 of user 1000, which is none"), "{refused}");
    }
}
