//! Compiles the protocol without protoc and keeps its descriptors for reflection: who serves what tells of that alone.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

/// What the control plane serves.
const FILES: [&str; 5] = [
    "loden/v1/identity.proto",
    "loden/v1/lease.proto",
    "loden/v1/network.proto",
    "loden/v1/node.proto",
    "loden/v1/peer.proto",
];
/// What an agent serves on its host.
const AGENT: &str = "loden/v1/agent.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=loden");
    if env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    fs::write(out.join("loden.v1.bin"), compiler.file_descriptor_set().encode_to_vec())?;
    // Without comments: every host has them in its memory.
    let mut agent = protox::Compiler::new(["."])?;
    agent.include_imports(true).open_file(AGENT)?;
    fs::write(out.join("loden.v1.agent.bin"), agent.file_descriptor_set().encode_to_vec())?;
    let descriptors = compiler.open_file(AGENT)?.file_descriptor_set();
    // Their secrets must not get into a log: `convert/secret.rs`.
    let secret = [".loden.v1.UdpReceiver", ".loden.v1.JoinToken", ".loden.v1.JoinRequest"];
    tonic_prost_build::configure().skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
