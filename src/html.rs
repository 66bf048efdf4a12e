//! What pages of HTML are written with.

use countersign_core::visible::Visible;

/// Text of strangers: nothing in it is markup, and nothing in it is unseen.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in Visible::new(text).to_string().chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
