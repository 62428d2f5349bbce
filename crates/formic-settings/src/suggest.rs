//! "Did you mean": the nearest of the spellings that would have been right.

/// Words longer than this are not typing errors, and comparing them costs their product.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = fold(word)?;
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let folded = fold(candidate)?;
            let distance = distance(&word, &folded);
            let longer = word.len().max(folded.len());
            let begins =
                word.len().min(folded.len()) >= 3 && (folded.starts_with(&word) || word.starts_with(&folded));
            // A third of the letters may be wrong; of a short word, one.
            (distance <= (longer / 3).max(1) && distance < longer || begins).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and the choice of `-`, `_` or a space are not differences.
fn fold(word: &str) -> Option<Vec<char>> {
    let folded: Vec<char> = word
        .chars()
        .take(LONGEST + 1)
        .map(|c| if matches!(c, '-' | ' ') { '_' } else { c.to_ascii_lowercase() })
        .collect();
    (folded.len() <= LONGEST).then_some(folded)
}

/// Letters to insert, delete, replace or swap with their neighbour to make `a` of `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["cargo", "command", "replicas", "depends_on", "env", "restart", "resources"];
        for (typed, meant) in [
            ("replica", Some("replicas")),
            ("repilcas", Some("replicas")),
            ("dependsOn", Some("depends_on")),
            ("depends-on", Some("depends_on")),
            ("depends", Some("depends_on")),
            ("comand", Some("command")),
            ("environment", Some("env")),
            ("Env", Some("env")),
            ("resource", Some("resources")),
            ("xyz", None),
            ("", None),
            ("q", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn long_words_are_left_alone() {
        assert_eq!(nearest(&"a".repeat(100_000), ["aaaa"]), None);
    }
}
