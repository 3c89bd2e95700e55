//! Where the programs are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `loden-control-plane`.
    pub control_plane: PathBuf,
    /// `loden-agent`.
    pub agent: PathBuf,
    /// `lodenctl`.
    pub lodenctl: PathBuf,
}

impl Binaries {
    /// Finds the programs beside the running one, as cargo lays them out.
    ///
    /// # Errors
    /// When one is missing: `make test` builds them first, cargo alone does not.
    pub fn locate() -> anyhow::Result<Self> {
        let running = env::current_exe().context("could not find the running program")?;
        // Tests lie one folder below the programs.
        let above = |folder: &&Path| !folder.ends_with("deps");
        let folder =
            running.ancestors().skip(1).find(above).context("the running program is in no folder")?;
        let find = |name: &str| {
            let path = folder.join(name);
            if !path.is_file() {
                bail!("{} is not there: run `cargo build --workspace --bins`", path.display());
            }
            Ok(path)
        };
        Ok(Self {
            control_plane: find("loden-control-plane")?,
            agent: find("loden-agent")?,
            lodenctl: find("lodenctl")?,
        })
    }
}
