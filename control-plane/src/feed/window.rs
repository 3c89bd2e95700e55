//! The recent points of the store's history, against which tokens are checked.

use std::collections::VecDeque;

use super::token::Point;

/// Most points kept; 16 bytes each.
const POINTS: usize = 1 << 20;

/// The newest points, without a gap, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Window {
    points: VecDeque<Point>,
    most: usize,
}

/// How a point stands to a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// It is in this history.
    Known,
    /// It is older than what is kept.
    Older,
    /// It is newer than the newest.
    Ahead,
    /// Another history has another batch at, or before, this revision.
    Differs,
}

impl Window {
    /// Begins at the point just before the kept history.
    pub(super) fn new(begin: Point) -> Self {
        Self::bounded(begin, POINTS)
    }

    fn bounded(begin: Point, most: usize) -> Self {
        Self { points: VecDeque::from([begin]), most }
    }

    /// Adds the next batch.
    pub(super) fn push(&mut self, point: Point) {
        if self.points.len() >= self.most {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The newest point.
    pub(super) fn newest(&self) -> Point {
        self.points.back().copied().unwrap_or_default()
    }

    /// Where a point of a token stands.
    pub(super) fn standing(&self, point: Point) -> Standing {
        if point.revision > self.newest().revision {
            return Standing::Ahead;
        }
        match self.points.binary_search_by_key(&point.revision, |known| known.revision) {
            Ok(index) if self.points[index].hash == point.hash => Standing::Known,
            Ok(_) => Standing::Differs,
            Err(0) => Standing::Older,
            // A revision that this history never had, between two that it has.
            Err(_) => Standing::Differs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(revision: u64, hash: u64) -> Point {
        Point { revision, hash }
    }

    #[test]
    fn a_point_is_known_older_ahead_or_another_historys() {
        let mut window = Window::bounded(point(3, 30), 3);
        for revision in 4..=6 {
            window.push(point(revision, revision * 10));
        }
        assert_eq!(window.newest(), point(6, 60));
        assert_eq!(window.standing(point(3, 30)), Standing::Older);
        assert_eq!(window.standing(point(4, 40)), Standing::Known);
        assert_eq!(window.standing(point(6, 60)), Standing::Known);
        assert_eq!(window.standing(point(5, 51)), Standing::Differs);
        assert_eq!(window.standing(point(7, 70)), Standing::Ahead);
    }
}
