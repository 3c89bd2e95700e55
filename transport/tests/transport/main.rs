//! Bundles on disk and handshakes on loopback.

// The attribute tells clippy what these are: here a failed unwrap is a finding.
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod pki;
