//! The connections of a channel, by the local address they come from.
//!
//! When a host loses that address nothing comes back any more, and TCP notices only after seconds of silence.
//! Whoever watches the host's addresses says so here, and the channel dials again at once.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The connections that are open; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Origins(Arc<Mutex<Vec<Origin>>>);

#[derive(Debug)]
struct Origin {
    local: IpAddr,
    cut: CancellationToken,
}

impl Origins {
    /// Ends the connections that come from an address that the host has no longer.
    pub fn retain(&self, has: impl Fn(IpAddr) -> bool) {
        self.open().retain(|origin| {
            let stays = has(origin.local);
            if !stays {
                origin.cut.cancel();
            }
            stays
        });
    }

    /// Watches over a new connection.
    pub(crate) fn watch<S>(&self, stream: S, local: IpAddr) -> Rooted<S> {
        let cut = CancellationToken::new();
        let mut open = self.open();
        // Those whose streams are gone have no other owner of their token.
        open.retain(|origin| !origin.cut.is_cancelled());
        open.push(Origin { local, cut: cut.clone() });
        Rooted { stream, ended: Box::pin(cut.clone().cancelled_owned()), cut }
    }

    /// Each change is one statement.
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that fails once its local address is gone.
pub(crate) struct Rooted<S> {
    stream: S,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    cut: CancellationToken,
}

impl<S> Rooted<S> {
    fn poll_ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "this host has lost the connection's address",
            )),
        }
    }
}

impl<S> Drop for Rooted<S> {
    /// Marks it as gone for whoever comes next.
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rooted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_ended(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rooted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_ended(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_connections_from_a_lost_address_fail_and_a_waiting_reader_is_woken() {
        let origins = Origins::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let ((near, _far), (other, mut far)) = (tokio::io::duplex(8), tokio::io::duplex(8));
        let mut lost = origins.watch(near, address("192.0.2.1"));
        let mut kept = origins.watch(other, address("192.0.2.2"));
        let reading = tokio::spawn(async move {
            let read = lost.read_u8().await;
            (read, lost.write_u8(1).await)
        });
        tokio::task::yield_now().await;
        origins.retain(|local| local == address("192.0.2.2"));
        let (read, written) = reading.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(written.is_err());
        far.write_u8(7).await.unwrap();
        assert_eq!(kept.read_u8().await.unwrap(), 7);
        drop(kept);
        let _next = origins.watch(far, address("192.0.2.2"));
        assert_eq!(origins.open().len(), 1, "those that are gone are forgotten");
    }
}
