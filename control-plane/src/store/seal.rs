//! A payload with its checksum and length before it, bound to the name that it is kept under. Pure.
//!
//! ```text
//!  sealed = crc32 of name and payload u32, length of payload u32, payload        (integers little endian)
//! ```

/// Bytes of the seal.
pub(super) const SEAL: usize = 8;

/// The payload, sealed for `name`.
pub(super) fn seal(name: &[u8], payload: &[u8]) -> Vec<u8> {
    seal_all(name, &[payload])
}

/// The same for a payload in several parts.
pub(super) fn seal_all(name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut sealed = Vec::with_capacity(SEAL + length);
    sealed.extend_from_slice(&crc32(name, parts).to_le_bytes());
    sealed.extend_from_slice(&(length as u32).to_le_bytes());
    for part in parts {
        sealed.extend_from_slice(part);
    }
    sealed
}

/// The payload of what was sealed for `name`; `None` if it is damaged.
pub(super) fn unseal<'a>(name: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, rest) = sealed.split_first_chunk::<4>()?;
    let (len, payload) = rest.split_first_chunk::<4>()?;
    let sound = u32::from_le_bytes(*len) as usize == payload.len()
        && u32::from_le_bytes(*crc) == crc32(name, &[payload]);
    sound.then_some(payload)
}

fn crc32(name: &[u8], payload: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_sealed_as_one_payload() {
        assert_eq!(seal_all(b"name", &[b"pay", b"", b"load"]), seal(b"name", b"payload"));
    }

    #[test]
    fn a_flipped_bit_a_cut_or_another_name_breaks_the_seal() {
        let sealed = seal(b"name", b"payload");
        assert_eq!(unseal(b"name", &sealed), Some(&b"payload"[..]));
        assert_eq!(unseal(b"nama", &sealed), None);
        assert_eq!(unseal(b"name", &sealed[..sealed.len() - 1]), None);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"name", &flipped), None, "bit {bit}");
        }
    }
}
