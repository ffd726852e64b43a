//! Added lines that look like a secret. Known prefixes of well-known services, and private keys: few false alarms
//! matter more than catching everything, because a person reads each.

/// A form of secret: its name, how it begins, and how many characters of the alphabet must follow.
struct Form {
    name: &'static str,
    prefix: &'static str,
    follows: usize,
}

const FORMS: &[Form] = &[
    Form { name: "GitHub token", prefix: "ghp_", follows: 36 },
    Form { name: "GitHub token", prefix: "gho_", follows: 36 },
    Form { name: "GitHub token", prefix: "ghs_", follows: 36 },
    Form { name: "GitHub token", prefix: "github_pat_", follows: 60 },
    Form { name: "GitLab token", prefix: "glpat-", follows: 20 },
    Form { name: "AWS access key id", prefix: "AKIA", follows: 16 },
    Form { name: "AWS access key id", prefix: "ASIA", follows: 16 },
    Form { name: "Slack token", prefix: "xoxb-", follows: 24 },
    Form { name: "Slack token", prefix: "xoxp-", follows: 24 },
    Form { name: "Stripe key", prefix: "sk_live_", follows: 24 },
    Form { name: "Google API key", prefix: "AIza", follows: 35 },
    Form { name: "npm token", prefix: "npm_", follows: 36 },
    Form { name: "PyPI token", prefix: "pypi-AgEIcHlwaS5vcmc", follows: 40 },
    Form { name: "Anthropic key", prefix: "sk-ant-", follows: 40 },
    Form { name: "OpenAI key", prefix: "sk-proj-", follows: 40 },
    Form { name: "crates.io token", prefix: "cio", follows: 32 },
    Form { name: "age secret key", prefix: "AGE-SECRET-KEY-1", follows: 50 },
];

/// What kind of secret a line seems to hold; never the secret itself.
pub(super) fn in_line(line: &[u8]) -> Option<&'static str> {
    // A byte that is no text must not hide what stands beside it.
    let text = &String::from_utf8_lossy(line);
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY") {
        return Some("private key");
    }
    FORMS.iter().find(|form| has(text, form)).map(|form| form.name)
}

fn has(text: &str, form: &Form) -> bool {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(form.prefix).any(|(at, _)| {
        // In the middle of a longer word it is something else: a hash, a base64 line.
        let starts = !text[..at].chars().next_back().is_some_and(of_token);
        starts && text[at + form.prefix.len()..].chars().take_while(|c| of_token(*c)).count() >= form.follows
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_and_ordinary_lines_are_not() {
        let token = format!("TOKEN = \"ghp_{}\"", "a1B2".repeat(9));
        assert_eq!(in_line(token.as_bytes()), Some("GitHub token"));
        assert_eq!(in_line(b"-----BEGIN OPENSSH PRIVATE KEY-----"), Some("private key"));
        for ordinary in ["let ghp_x = 1;", "sha AKIA", "cions of the ocean", "skill-proj-1"] {
            assert_eq!(in_line(ordinary.as_bytes()), None, "{ordinary}");
        }
    }
}
