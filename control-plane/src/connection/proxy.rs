//! From where a connection comes, as a balancer says it: by a header of the PROXY protocol, version 2, before all else.
//!
//! ```text
//!  \r\n\r\n\0\r\nQUIT\n │ version, command │ family │ length │ source, destination, their ports │ more of it
//!   12 bytes            │ 1                │ 1      │ 2      │ 12 or 36                         │ is skipped
//! ```
//!
//! As in §2.2 of haproxy.org's proxy-protocol.txt. Balancers are believed, nobody else; from them the header must come,
//! else a client could write its own.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What each header has, in bytes.
const FIXED: usize = 16;
/// The longest header that is read, in bytes; usual ones stay below 536.
const LONGEST: usize = 1024;

/// TCP over IPv4.
const TCP_V4: u8 = 0x11;
/// TCP over IPv6.
const TCP_V6: u8 = 0x21;
/// A socket of the balancer's host, which has no address that would tell us anything.
const UNIX: u8 = 0x31;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// A client's, which comes from there.
    Client(SocketAddr),
    /// The balancer's own, for instance to see whether we are there; or it does not say whose.
    Balancer,
}

/// A header cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// It did not come.
    #[error("the connection was lost before its header was whole: {0}")]
    Lost(#[from] io::Error),
    /// It is none.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a connection from here must begin with a header of the PROXY protocol, version 2")]
    NoHeader,
    #[error("PROXY header: version {0} must be 2")]
    Version(u8),
    #[error("PROXY header: command {0} must be 0 (LOCAL) or 1 (PROXY)")]
    Command(u8),
    #[error("PROXY header: family {0:#04x} must be TCP over IPv4 (0x11) or over IPv6 (0x21), or unspecified")]
    Family(u8),
    #[error("PROXY header: length {0} must be at most {most}", most = LONGEST - FIXED)]
    TooLong(usize),
    #[error("PROXY header: length {length} is too short for addresses of family {family:#04x}")]
    TooShort { family: u8, length: usize },
}

/// What the bytes that have come say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Parsed {
    /// They are the whole header.
    Whole(Origin),
    /// So many are needed, from the first one on; the header has them all.
    Needs(usize),
}

/// Reads a header, and not a byte of what follows it.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Origin, HeaderError> {
    let mut header = vec![0; LONGEST];
    let mut come = 0;
    loop {
        match parse(&header[..come])? {
            Parsed::Whole(origin) => return Ok(origin),
            Parsed::Needs(bytes) => match stream.read(&mut header[come..bytes]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                more => come += more,
            },
        }
    }
}

/// Reads as much of a header as has come.
fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
    if SIGNATURE.iter().zip(bytes).any(|(expected, byte)| expected != byte) {
        return Err(Refusal::NoHeader);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(Parsed::Needs(FIXED)) };
    let [.., version_and_command, family, high, low] = *fixed;
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version != 2 {
        return Err(Refusal::Version(version));
    }
    if command > 1 {
        return Err(Refusal::Command(command));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST - FIXED {
        return Err(Refusal::TooLong(length));
    }
    let Some(block) = rest.get(..length) else { return Ok(Parsed::Needs(FIXED + length)) };
    if command == 0 {
        // Whatever family it names.
        return Ok(Parsed::Whole(Origin::Balancer));
    }
    let client = match family {
        TCP_V4 => source::<4>(block).map(SocketAddr::from),
        TCP_V6 => source::<16>(block).map(SocketAddr::from),
        _ if family >> 4 == 0 || family == UNIX => return Ok(Parsed::Whole(Origin::Balancer)),
        _ => return Err(Refusal::Family(family)),
    };
    let client = client.ok_or(Refusal::TooShort { family, length })?;
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    Ok(Parsed::Whole(Origin::Client(client)))
}

/// The source in a block of addresses of so many bytes.
fn source<const BYTES: usize>(block: &[u8]) -> Option<([u8; BYTES], u16)> {
    let (source, rest) = block.split_first_chunk::<BYTES>()?;
    let (_destination, rest) = rest.split_first_chunk::<BYTES>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let _of_destination = rest.first_chunk::<2>()?;
    Some((*source, u16::from_be_bytes(*port)))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A header of any command and family.
    pub(in crate::connection) fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, block].concat()
    }

    /// The header of a client's connection, with something more behind the addresses.
    pub(in crate::connection) fn of_client(client: SocketAddr, more: &[u8]) -> Vec<u8> {
        let port = client.port().to_be_bytes();
        match client {
            SocketAddr::V4(v4) => {
                let address = v4.ip().octets();
                header(1, TCP_V4, &[&address[..], &[203, 0, 113, 1], &port, &[29, 19], more].concat())
            }
            SocketAddr::V6(v6) => {
                let address = v6.ip().octets();
                header(1, TCP_V6, &[&address[..], &[0xfd; 16], &port, &[29, 19], more].concat())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::testing::{header, of_client};
    use super::*;

    /// What it is read as, and what is left of what follows it.
    fn read_whole(mut bytes: &[u8]) -> (Result<Origin, String>, usize) {
        let read = read(&mut bytes).now_or_never().unwrap();
        (read.map_err(|error| error.to_string()), bytes.len())
    }

    #[test]
    fn a_header_says_who_the_client_is_and_what_follows_is_not_touched() {
        for client in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
            let client = client.parse().unwrap();
            for more in [&[][..], &[4, 0, 3, 1, 2, 3], &[0; 300]] {
                let bytes = [of_client(client, more), b"ClientHello".to_vec()].concat();
                assert_eq!(read_whole(&bytes), (Ok(Origin::Client(client)), 11));
            }
        }
        let mapped = of_client("[::ffff:192.0.2.7]:1".parse().unwrap(), &[]);
        assert_eq!(read_whole(&mapped).0, Ok(Origin::Client("192.0.2.7:1".parse().unwrap())));
    }

    #[test]
    fn what_is_nobodys_is_the_balancers_own() {
        for (command, family, block) in [
            (0, 0, &[][..]),
            // A check: what else it says is not heeded.
            (0, TCP_V4, &[1; 12]),
            (0, 0xff, &[1; 3]),
            (1, 0, &[]),
            (1, 0, &[1; 40]),
            (1, UNIX, &[1; 216]),
        ] {
            let bytes = [header(command, family, block), b"rest".to_vec()].concat();
            assert_eq!(read_whole(&bytes), (Ok(Origin::Balancer), 4), "{command} {family}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason_at_its_first_wrong_byte() {
        let good = of_client("192.0.2.7:4711".parse().unwrap(), &[]);
        let with = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            bytes
        };
        let begin = "must begin with a header of the PROXY protocol, version 2";
        for (bytes, says) in [
            (vec![22], begin),
            (b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 7443\r\n".to_vec(), begin),
            (with(11, b'\r'), begin),
            (with(12, 0x31), "version 3 must be 2"),
            (with(12, 0x22), "command 2 must be 0 (LOCAL) or 1 (PROXY)"),
            (with(13, 0x12), "family 0x12 must be TCP"),
            (with(14, 4), "length 1036 must be at most 1008"),
            (header(1, TCP_V4, &[1; 11]), "length 11 is too short for addresses of family 0x11"),
            (header(1, TCP_V6, &[1; 35]), "length 35 is too short for addresses of family 0x21"),
            (good[..27].to_vec(), "lost before its header was whole"),
            (Vec::new(), "lost before its header was whole"),
        ] {
            let error = read_whole(&bytes).0.unwrap_err();
            assert!(error.contains(says), "{bytes:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_too_much(
            signed in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..1200),
        ) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            for length in 0..=bytes.len().min(LONGEST) {
                match parse(&bytes[..length]) {
                    Ok(Parsed::Needs(needs)) => prop_assert!(needs > length && needs <= LONGEST),
                    Ok(Parsed::Whole(_)) => prop_assert!(length >= FIXED),
                    Err(_) => {}
                }
            }
        }

        #[test]
        fn a_header_that_comes_byte_by_byte_needs_more_until_it_is_whole(
            address in any::<[u8; 16]>(),
            port in any::<u16>(),
            is_v4 in any::<bool>(),
            more in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let [a, b, c, d, ..] = address;
            let client = if is_v4 {
                SocketAddr::from(([a, b, c, d], port))
            } else {
                SocketAddr::from((address, port))
            };
            let bytes = of_client(client, &more);
            for length in 0..bytes.len() {
                let parsed = parse(&bytes[..length]);
                prop_assert_eq!(parsed, Ok(Parsed::Needs(if length < FIXED { FIXED } else { bytes.len() })));
            }
            let client = SocketAddr::new(client.ip().to_canonical(), port);
            prop_assert_eq!(parse(&bytes), Ok(Parsed::Whole(Origin::Client(client))));
        }
    }
}
