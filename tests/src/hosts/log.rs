//! A process's output in a file: read it, wait for it, show its end when something fails.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How much of a log a failure shows.
const TAIL_LINES: usize = 40;

/// The output of one process: a file, from the place where that process began.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    begin: u64,
}

impl Log {
    pub(super) fn new(path: PathBuf, begin: u64) -> Self {
        Self { path, begin }
    }

    /// The file, shared by all processes of the same name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything the process has written until now.
    pub fn text(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.begin))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first whole line that contains `pattern`.
    pub fn line(&self, pattern: &str) -> io::Result<Option<String>> {
        Ok(find_line(&self.text()?, pattern).map(str::to_owned))
    }

    /// The last lines, for messages.
    #[must_use]
    pub fn tail(&self) -> String {
        match self.text() {
            Ok(text) => format!("end of {}:\n{}", self.path.display(), tail(&text)),
            Err(error) => format!("{}: {error}", self.path.display()),
        }
    }
}

/// A line still being written does not count.
fn find_line<'a>(text: &'a str, pattern: &str) -> Option<&'a str> {
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().find(|line| line.contains(pattern))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// Prints the end of every log in a directory, so that a failed test shows what its processes said.
pub(super) fn print_tails(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    for path in paths {
        eprintln!("{}", Log::new(path, 0).tail());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_still_being_written_is_not_found() {
        assert_eq!(find_line("a\nready on 1", "ready"), None);
        assert_eq!(find_line("a\nready on 17\n", "ready"), Some("ready on 17"));
    }

    #[test]
    fn the_tail_is_the_end() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(tail(&text).lines().count(), TAIL_LINES);
        assert!(tail(&text).ends_with("    line 99\n"));
    }
}
