//! Links within the repository lead somewhere.

use std::path::{Component, Path, PathBuf};

use crate::markdown::{anchors, document, documents, root};

/// The targets of a line's links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Resolves `.` and `..` by text: links may not leave the repository.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(normal.pop(), "{} leaves the repository", path.display()),
            Component::Normal(name) => normal.push(name),
            _ => {}
        }
    }
    normal
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let mut links = 0;
    for from in documents() {
        for (number, line) in from.prose() {
            for target in targets(line).filter(|target| !target.contains("://")) {
                links += 1;
                let place = format!("{}:{number}: {target}", from.path.display());
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() {
                    from.path.clone()
                } else {
                    normal(&from.path.parent().unwrap().join(file))
                };
                assert!(root().join(&path).exists(), "{place} does not exist");
                if !anchor.is_empty() {
                    let headings = anchors(&document(path.to_str().unwrap()));
                    assert!(headings.iter().any(|heading| heading == anchor), "{place}: {headings:?}");
                }
            }
        }
    }
    assert!(links > 20, "only {links} links were found");
}
