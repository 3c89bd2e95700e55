//! One netlink socket: questions, dumps and packed batches of writes.
//!
//! ```text
//!  [set][set][set]…[set, ACK] ──one send──▶ kernel
//!        ◀── error(seq 2), error(seq 7), …, ack(last seq)
//! ```
//!
//! Only the last message of a batch asks for an acknowledgement: the kernel
//! works in order, so its answer says that all before it are done. Errors come
//! unasked and name the message by sequence number.

use std::collections::HashMap;
use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::frames::{align, attributes, messages};
use crate::socket::enlarge;
use crate::{Error, KernelError, Writes};

/// Bytes of a batch at most: below the socket's send buffer.
const BATCH_BYTES: usize = 48 * 1024;
/// Messages of a batch at most: even if each fails, the errors fit into the
/// smallest usual receive buffer.
const BATCH_MESSAGES: usize = 192;
/// Bytes of a datagram at most; the kernel fills it during dumps.
const DATAGRAM: usize = 64 * 1024;
/// Receive buffer for answers, in bytes.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How often a dump is begun again when changes interrupt it.
const DUMP_ATTEMPTS: usize = 8;

/// A netlink socket for requests, in the network namespace of the thread that
/// opened it.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    writes: Writes,
    received: Vec<u8>,
}

/// Messages to be written in one go.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins.
    begins: Vec<usize>,
}

impl Batch {
    /// Appends a message.
    pub(super) fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let begin = self.bytes.len();
        self.begins.push(begin);
        self.bytes.resize(begin + align(message.buffer_len()), 0);
        message.serialize(&mut self.bytes[begin..]);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// Whether it should be written before anything is appended.
    pub(super) fn is_full(&self) -> bool {
        self.begins.len() >= BATCH_MESSAGES || self.bytes.len() >= BATCH_BYTES
    }
}

impl Requests {
    pub(super) fn open(writes: Writes) -> Result<Self, Error> {
        Ok(Self { socket: open_socket()?, sequence: 0, writes, received: Vec::with_capacity(DATAGRAM) })
    }

    /// Writes a batch. Answers one result per message, in order.
    ///
    /// # Errors
    /// When the batch could not be sent; nothing of it took effect then.
    pub(super) fn write(&mut self, batch: &mut Batch) -> Result<Vec<Result<(), Error>>, Error> {
        let Batch { mut bytes, begins } = std::mem::take(batch);
        let Some(last) = begins.last().copied() else { return Ok(Vec::new()) };
        let first = self.sequence.wrapping_add(1);
        for begin in &begins {
            self.sequence = self.sequence.wrapping_add(1);
            bytes[begin + 8..begin + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        }
        let flags = u16::from_ne_bytes([bytes[last + 6], bytes[last + 7]]) | NLM_F_ACK;
        bytes[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());

        // The fields of a header stand at fixed places (`struct nlmsghdr`).
        self.send(&bytes, begins.len() as u64)?;
        let mut failed: HashMap<u32, KernelError> = HashMap::new();
        let whole = self.receive_until(self.sequence, |message| {
            if let NetlinkPayload::Error(error) = message.payload
                && error.code.is_some()
            {
                failed.insert(message.header.sequence_number, kernel_error(&error));
            }
            Ok(())
        });
        match whole {
            Ok(()) => {}
            Err(Error::Unknown) => {
                // Answers were lost. Late ones must not be taken for those of
                // the next request.
                self.socket = open_socket()?;
                return Ok(begins.iter().map(|_| Err(Error::Unknown)).collect());
            }
            Err(error) => return Err(error),
        }
        let count = u32::try_from(begins.len()).unwrap_or(u32::MAX);
        let result = |index| match failed.remove(&first.wrapping_add(index)) {
            Some(error) => Err(Error::Kernel(error)),
            None => Ok(()),
        };
        Ok((0..count).map(result).collect())
    }

    /// Writes one message.
    ///
    /// # Errors
    /// As the kernel answers.
    pub(super) fn write_one(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.push(message, flags);
        self.write(&mut batch)?.pop().unwrap_or(Err(Error::Unknown))
    }

    /// Asks one question that has one answer.
    ///
    /// # Errors
    /// As the kernel answers.
    pub(super) fn ask(&mut self, question: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Error> {
        let mut answer = None;
        self.question(question, NLM_F_ACK, |message| {
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answer = Some(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Error::Kernel(kernel_error(&error)));
                }
                _ => {}
            }
            Ok(())
        })?;
        answer.ok_or_else(|| Error::Decode("no answer before the acknowledgement".to_owned()))
    }

    /// Reads a table, filtered in the kernel by what `question` names; strictly:
    /// a filter that the kernel does not know is an error.
    ///
    /// # Errors
    /// As the kernel answers, and when changes interrupt it again and again.
    pub(super) fn dump(&mut self, question: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut answers = Vec::new();
            let mut interrupted = false;
            self.question(question.clone(), NLM_F_DUMP, |message| {
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Error::Kernel(kernel_error(&error)));
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(Error::Kernel(KernelError {
                            errno: -done.code,
                            message: extended_message(&done.extended_ack),
                        }));
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(Error::Interrupted)
    }

    fn question(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.send(&bytes, 0)?;
        let result = self.receive_until(self.sequence, each);
        // An error of the kernel is the end of the answer. After any other, the
        // rest may still be on its way.
        if !matches!(result, Ok(()) | Err(Error::Kernel(_))) {
            self.socket = open_socket()?;
        }
        result
    }

    /// The one place where anything is sent, and where writes are counted.
    fn send(&mut self, bytes: &[u8], writes: u64) -> Result<(), Error> {
        self.writes.add(writes);
        self.socket.send(bytes, 0)?;
        Ok(())
    }

    /// Hands over messages until the one that ends the answer to `sequence`:
    /// an acknowledgement, an error, or the end of a dump.
    fn receive_until(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            self.received.clear();
            match self.socket.recv(&mut self.received, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Err(Error::Unknown),
                Err(error) => return Err(error.into()),
            }
            for message in messages(&self.received) {
                let Some(message) = message? else { continue };
                let ends = message.header.sequence_number == sequence
                    && matches!(message.payload, NetlinkPayload::Error(_) | NetlinkPayload::Done(_));
                each(message)?;
                if ends {
                    return Ok(());
                }
            }
        }
    }
}

fn open_socket() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    enlarge(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

fn kernel_error(error: &ErrorMessage) -> KernelError {
    // After the error number: the header of the request (its body is left out,
    // NETLINK_CAP_ACK), then the extended acknowledgement.
    let extended = error.header.get(16..).unwrap_or_default();
    KernelError { errno: error.raw_code().saturating_abs(), message: extended_message(extended) }
}

/// `NLMSGERR_ATTR_MSG` among the attributes of an extended acknowledgement.
fn extended_message(extended: &[u8]) -> Option<String> {
    const MESSAGE: u16 = 1;
    let (_, text) = attributes(extended).find(|(kind, _)| *kind == MESSAGE)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_extended_acknowledgement_are_found() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(align(bytes.len()), 0);
            bytes
        };
        let mut bytes = attribute(2, &[0, 0, 0, 1]);
        bytes.extend(attribute(1, b"Invalid prefix\0"));
        assert_eq!(extended_message(&bytes).as_deref(), Some("Invalid prefix"));
        assert_eq!(extended_message(&[]), None);
        assert_eq!(extended_message(&[255, 255, 1, 0]), None);
        assert_eq!(extended_message(&[0, 0, 1, 0]), None);
    }
}
