//! Comments of the proto as documentation of the Rust.

use buffa_codegen::generated::descriptor::FileDescriptorProto;

/// The comments of a file.
pub(super) struct Comments<'a>(&'a FileDescriptorProto);

impl<'a> Comments<'a> {
    pub(super) fn of(file: &'a FileDescriptorProto) -> Self {
        Self(file)
    }

    /// The lines of the comment above (or else behind) what the descriptor's path leads to.
    pub(super) fn at(&self, path: &[i32]) -> Vec<String> {
        let Some(info) = self.0.source_code_info.as_option() else { return Vec::new() };
        let Some(location) = info.location.iter().find(|location| location.path == path) else {
            return Vec::new();
        };
        let comment = location.leading_comments.as_ref().or(location.trailing_comments.as_ref());
        comment.map(|text| lines(text)).unwrap_or_default()
    }
}

/// Lines that rustdoc shows and never compiles: what is indented or fenced in a proto is not Rust.
fn lines(comment: &str) -> Vec<String> {
    let mut fenced = false;
    let mut out = Vec::new();
    for line in comment.trim_end().lines() {
        let text = line.trim_start();
        let indent = (line.len() - text.len()).saturating_sub(1);
        let indent = if fenced { indent } else { indent.min(3) };
        let opens = text.starts_with("```") || text.starts_with("~~~");
        let mark = if opens && !fenced { "text" } else { "" };
        if opens {
            fenced = !fenced;
            out.push(format!("{}{mark}", &text[..3]));
        } else {
            out.push(format!("{:indent$}{}", "", text.trim_end()));
        }
    }
    if fenced {
        out.push("```".into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_in_comments_are_not_rust() {
        let comment = " Says hello.\n\n     indented\n ```go\n   x := 1\n ```\n";
        assert_eq!(lines(comment), ["Says hello.", "", "   indented", "```text", "  x := 1", "```"]);
    }
}
