//! As much of Markdown as our documents use.

use std::path::{Path, PathBuf};

/// One document of the repository.
#[derive(Debug)]
pub(crate) struct Document {
    /// From the repository's root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of code.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) language: &'a str,
    pub(crate) lines: Vec<&'a str>,
    /// Line number of its first line.
    pub(crate) line: usize,
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One document, by its path from the root.
pub(crate) fn document(path: &str) -> Document {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Document { path: path.into(), text }
}

/// All documents; what is built or fetched is left out.
pub(crate) fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(document(path.to_str().unwrap()));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 5, "documents were not found: {found:?}");
    found
}

impl Document {
    /// Its fenced blocks.
    pub(crate) fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    open = Some(Block { language, lines: Vec::new(), line: number + 2 });
                }
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.lines.push(line);
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.path.display());
        blocks
    }

    /// Its lines outside of blocks, with their numbers.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let lines = self.text.lines().enumerate().filter(|(_, line)| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.map(|(number, line)| (number + 1, line)).collect()
    }

    /// What stands under a heading, up to the next one.
    pub(crate) fn section(&self, heading: &str) -> Self {
        let mut lines = self.text.lines().skip_while(|line| *line != heading).skip(1);
        let mut inside = false;
        let body: Vec<_> = lines
            .by_ref()
            .take_while(|line| {
                inside ^= line.starts_with("```");
                inside || !line.starts_with('#')
            })
            .collect();
        assert!(!body.is_empty(), "{} has no section {heading:?}", self.path.display());
        Self { path: self.path.clone(), text: body.join("\n") }
    }

    /// The cells of its tables' rows, without headings.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        let prose = self.prose();
        let is_row = |line: &str| line.starts_with('|');
        let is_rule = |line: &str| is_row(line) && line.chars().all(|c| "|-: ".contains(c));
        let rows = prose.iter().enumerate().filter(|(index, (_, line))| {
            let heads = prose.get(index + 1).is_some_and(|(_, next)| is_rule(next));
            is_row(line) && !is_rule(line) && !heads
        });
        rows.map(|(_, (_, line))| cells(line)).collect()
    }
}

/// The text between the first two backticks; empty without.
pub(crate) fn code(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_default()
}

/// The headings' anchors, as GitHub makes them.
pub(crate) fn anchors(document: &Document) -> Vec<String> {
    let headings = document.prose().into_iter().filter_map(|(_, line)| {
        let text = line.trim_start_matches('#');
        (text.len() < line.len() && text.starts_with(' ')).then(|| text.trim().to_lowercase())
    });
    let kept = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|text| text.chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")).collect()
}
