import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UserError
from pipelines.corpus.text.redact import KINDS, excerpts, redact
from pipelines.corpus.text.settings import RedactConfig

CONFIG = RedactConfig(email="<E>", ipv4="<4>", ipv6="<6>", phone="<P>", secret="<S>")


def column(*texts):
    return pa.array(texts, pa.large_string())


def redacted(text, config=CONFIG):
    return redact(column(text), config)[0][0].as_py()


# Secrets are put together here, so that no scanner takes them for real ones.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "0123456789ab" * 3
SLACK = "xoxb-" + "123456789012-abcdefghij"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0" + ".abcdEFGH_-12"
LINE = "MIIEpAIBAAKCAQEA04up8hoqzS1+APIB0RhjXyObwHQnOzhAk5Bd7mhkSbPkyhP1"
PEM_BODY = f"{LINE}\n" * 3 + "abc="
STRIPE = "sk_" + "live_" + "0123456789abcdefghijklmn"
TELEGRAM = "12345678:" + "abcdefghijklmnopqrstuvwxyz_ABCDEF-0"
MAILCHIMP = "0123456789abcdef" * 2 + "-us12"
SENDGRID = "SG." + "a" * 22 + "." + "b" * 43
DISCORD = "M" + "a1" * 12 + ".AbCdEf." + "x" * 27
NPM = "npm_" + "abcdefghij0123456789"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to Joe.Smith@corp.co.uk, or", "Write to <E>, or"),
        ("<ann+x@mail.corp.com>", "<<E>>"),
        ("mailto:a_b@x-y.org.", "mailto:<E>."),
        ("'joe@corp.com'", "'<E>'"),
        ("git+https://host/a@b.com", "git+https://host/<E>"),
        ("üjoe@corp.com", "ü<E>"),
        ("an a@b c@d.1 @x.com x@ pkg@1.2.3 @decorator.name", None),
        ("email@example.com, me@sub.example.org, root@x.test", None),
        ("a@x.com@y.org", "<E>@y.org"),
        ("joe@corp.com.Then he went, joe@corp.com.then too", "<E>.Then he went, <E>.then too"),
        ("joe@corp.it. Joe@corp.museum, joe@corp.notone joe@k8s.io", "<E>. <E>, joe@corp.notone <E>"),
        (
            "E<lt>joe@corp.eduE<gt> E<lt>joe@corp.nlE<gt> 7.1@Corp.COME<gt>",
            "E<lt><E>E<gt> E<lt><E>E<gt> <E>E<gt>",
        ),
        ("Joe Doedoe@corp.orgAnn Doe", "Joe <E>Ann Doe"),
        ("[n=jo@dsl-1-2-3.corp.co.za] [n=em@mail.corp.ph] a@b12.corp.co.yu", "[n=<E>] [n=<E>] <E>"),
        ("jo@corp.it wrote (ed@corp.fr), an@corp.ie:", "<E> wrote (<E>), <E>:"),
        ("bob@gmail.com:hunter2 x@163.com joe@360.cn", "<E>:hunter2 <E> <E>"),
        ("https://x.org/leave?mail=joe@corp.sh", "https://x.org/leave?mail=<E>"),
        ("xmpp://joe@corp.im", "xmpp://<E>"),
        ("y = x@w.astype(np.float32) + b; q@k.transpose, z@w.T", None),
        ("y = x@w.to(device); x@self.weights.id[0]; x@w.to_dense(); z=h@w.real", None),
        ("y = x@self.name", None),
        ("return xs@w.is", None),
        ("this@MainActivity.name, x@w.to.cuda", None),
        ("git clone git@github.com:org/repo.git && hg clone hg@bitbucket.org:x", None),
        ("scp a deploy@server.corp.org:/var/www joe@corp.com:src/a.c", None),
        ("ssh://git@github.com/org/repo git+ssh://dev@svn.corp.net/x", None),
        ("https://org@dev.azure.com/org/_git/repo", None),
        ("ftp://user:hunter2@ftp.corp.com/x", "ftp://user:<S>@ftp.corp.com/x"),
        ("https://cdn.example/npm/chart@latest.min.js https://unpkg.com/x@next.dev/a", None),
        ("npm i chart@latest.zip; https://cdn.corp.com/npm/chart@bundle.py", None),
        ("getty@tty1.service user@host.local", None),
        ("ping 93.184.216.34, 9.9.99.99.", "ping <4>, <4>."),
        ("93.184.8.0/24 (1.1.100.1)", "<4>/24 (<4>)"),
        ("section 9.3.3.1, Linux 2.6.15.6", None),
        ("10.0.0.1 192.168.1.2 172.16.0.9 127.0.0.1 169.254.1.1 192.0.2.7 0.1.2.3", None),
        ("93.184.216.34.5 v93.184.216.34 93.184.216.34a 999.1.1.1 88.8.8.08 8.8.8 100.2.3.0004", None),
        ("dns 2001:4860:4860::8888 and 2606:4700:4700:0:0:0:0:1111.", "dns <6> and <6>."),
        ("2001:db8::5 fe80::1 ::1 std::add::x add::fed 12:34:56 2345:12:34 Python 3000::", None),
        ("Call 202-456-1111, 1-202-456-1111 or (202) 456-1111.", "Call <P>, <P> or <P>."),
        ("fax 202.456.1111; +1 202 456 1111; +49 30 227-32152 today", "fax <P>; <P>; <P> today"),
        ("+44 20 7946 0018 12 people", "<P> 12 people"),
        ("(202) 555-0100 +1234567 123-456-7890 2+345678901234 202-456-11112 7.202-456-1111", None),
        (f"key {AWS}.", "key <S>."),
        (f"AWS_SECRET_KEY = '{'wJalrXUtnF' * 4}'", "AWS_SECRET_KEY = '<S>'"),
        (f"token={GITHUB} {SLACK}", "token=<S> <S>"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer <S>"),
        ("eyJhbGciOiJIUzI1NiJ9x.notatoken", None),
        (f"{STRIPE} {TELEGRAM}\n{MAILCHIMP}", "<S> <S>\n<S>"),
        (f"{SENDGRID} and {DISCORD}", "<S> and <S>"),
        (f"//registry.npmjs.org/:_authToken={NPM}\nnext", "//registry.npmjs.org/:_authToken=<S>\nnext"),
        ("ftp://user:hunter2@host/x http://user@host:80/", "ftp://user:<S>@host/x http://user@host:80/"),
        (
            f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{PEM_BODY}\n-----END RSA PRI",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n<S>\n-----END RSA PRI",
        ),
        (
            f"-----BEGIN RSA PRIVATE KEY-----\\nProc-Type: 4,ENCRYPTED\\nDEK-Info: AES,12\\n\\n{LINE}\\n---",
            "-----BEGIN RSA PRIVATE KEY-----\\nProc-Type: 4,ENCRYPTED\\nDEK-Info: AES,12\\n\\n<S>\\n---",
        ),
        (
            f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nComment: C:\\new\n\n{PEM_BODY}\n-----END",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nComment: C:\\new\n\n<S>\n-----END",
        ),
        (
            f"-----BEGIN RSA PRIVATE KEY----- Proc-Type: 4,ENCRYPTED DEK-Info: AES,12 {LINE} -----END",
            "-----BEGIN RSA PRIVATE KEY----- Proc-Type: 4,ENCRYPTED DEK-Info: AES,12 <S> -----END",
        ),
        ("a file that starts with -----BEGIN PRIVATE KEY----- and so on", None),
        ("laws and paws and flaws APACHECONFIGURE", None),
        ('x="' + "AKC" + 'p1234567890"', 'x="<S>"'),
    ],
)
def test_what_is_found(text, expected):
    assert redacted(text) == (text if expected is None else expected)


# Beginnings of every rule's match over and over, each 100 KB. With rules that go over such text again for
# every anchor, or give back what they took, some of these take minutes, and those of a key take for ever.
HEAD = "-----BEGIN RSA PRIVATE KEY-----"
ENDLESS = [
    *((HEAD + "\n", text) for text in ("A:  ", "bob: I get error: not found\n", "\n", "a" * 19 + "\n")),
    *(
        (HEAD, text)
        for text in ("\\n", "\nA: " + HEAD, "\nA: b b b" + HEAD, " \\n\t", '"' + "a" * 20 + "',\n")
    ),
    *(("PuTTY-User-Key-File-2:" * 150 + "Private-Lines: ", text) for text in ("1", "PuTTY-User-Key-File-2:")),
    *(("", text) for text in ("M", "eyJ", "eyJaaaa.", "eyJaaaa", "//:_authToken=", "/" * 900 + "_authToken")),
    *(("", text) for text in ("aws", "awskey'", "sk-" * 250 + "T3BlbkFJ" + "a" * 20, "-us1", "xoxb-1", "1-")),
    *(("", text) for text in ("https://hooks.slack.com/services/T", "glagent-", "glcbt-a0_", "AKC0000000")),
    *(("", text) for text in ("AP0", "AccountKey=", "ghp_", "pypi-AgEIcHlwaS5vcmc", "SG.", "sq0csp-", "AC")),
    *(("", text) for text in ("12345678:", "1 12345678:" + "a:" * 20, "://a:", "a@", "b.", "a@b.", "@")),
    *(("", text) for text in ("1.", "2001:", "+1 ", "1 ", "+1-202-456-", "(202) 456-")),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("head", "text"), ENDLESS)
def test_text_that_almost_matches_takes_seconds(head, text):
    redacted(head + text * (100_000 // len(text)))


def test_the_rules_of_a_line_see_all_of_a_long_one():
    filler = "MMMM " * 900  # places where a token may begin, in windows that overlap
    for size in range(0, 4500, 499):
        text = filler[:size] + f" {DISCORD} {JWT} " + filler
        assert redacted(text) == filler[:size] + " <S> <S> " + filler
    key = f"{HEAD}\n{PEM_BODY}-----END"
    text = column(*[key * 2] * 3, "x")
    assert redact(text, CONFIG)[0].to_pylist() == [f"{HEAD}\n<S>-----END" * 2] * 3 + ["x"]


def test_counts_and_bytes():
    text = column("clean", "a@b.org c@d.org 93.184.216.34", f"{AWS} é", "")
    out, columns = redact(text, CONFIG)
    assert out.to_pylist() == ["clean", "<E> <E> <4>", "<S> é", ""]
    assert columns["n_email"].tolist() == [0, 2, 0, 0] and columns["n_ipv4"].tolist() == [0, 1, 0, 0]
    assert columns["delta_secret"].tolist() == [0, 0, 3 - 20, 0]
    assert all(columns[f"{kind}_{name}"].dtype == np.int64 for name in KINDS for kind in ("n", "delta"))


def test_null_leaves_a_kind_alone():
    text = "a@b.org 93.184.216.34 202-456-1111"
    assert redacted(text, RedactConfig(email=None, phone=None)) == "a@b.org 192.0.2.1 202-456-1111"
    none = RedactConfig(email=None, ipv4=None, ipv6=None, phone=None, secret=None)
    assert redacted(text, none) == text


def test_a_replacement_that_is_found_itself():
    with pytest.raises(UserError, match=r"redact.email = 'me@corp.com' is itself"):
        redact(column("x"), RedactConfig(email="me@corp.com"))


def test_text_without_matches_is_the_same_object():
    text = column("clean", "also 1.2.3 clean @ home")
    assert redact(text, RedactConfig())[0] is text


def test_slices():
    text = column("a@b.org", "x", "c@d.org")
    assert redact(text.slice(1), CONFIG)[0].to_pylist() == ["x", "<E>"]


parts = st.sampled_from(
    [
        "a@b.org",
        "@",
        "93.184.216.34",
        "10.0.0.1",
        ".",
        ":",
        "2001:4860:4860::8888",
        "+1 ",
        "202-456-1111",
        "(",
        ")",
        "-",
    ]
    + [
        " ",
        "\n",
        "é",
        "x",
        "7",
        "//",
        "http://u:p",
        AWS,
        GITHUB,
        SLACK,
        JWT,
        "PRIVATE KEY-----",
        "\n" + PEM_BODY,
    ]
)
documents = st.lists(st.one_of(parts, parts, st.text(max_size=5)), max_size=14).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(documents, max_size=4), st.sampled_from([CONFIG, RedactConfig()]))
def test_idempotent_and_bytes_add_up(texts, config):
    text = column(*texts)
    out, columns = redact(text, config)
    before = np.array([len(t.encode()) for t in texts], np.int64)
    after = np.array([len(t.encode()) for t in out.to_pylist()], np.int64)
    assert (before + sum(columns[f"delta_{kind}"] for kind in KINDS) == after).all()
    found = np.sum([columns[f"n_{kind}"] for kind in KINDS], axis=0)
    for old, new, count in zip(texts, out.to_pylist(), found, strict=True):
        assert count > 0 or new == old
    again, more = redact(out, config)
    assert again is out and not any(values.any() for values in more.values())


def test_excerpts_show_no_personal_data_whatever_the_corpus_keeps():
    keeps_all = RedactConfig(**dict.fromkeys(KINDS))
    text = "é" * 90 + f" jane.roe@corp.com {AWS} {'-----BEGIN RSA PRIVATE KEY-----'} {PEM_BODY * 40}"
    for characters in range(80, 200):
        (found,) = excerpts(column(text), characters, keeps_all).to_pylist()
        assert len(found) <= characters
        assert not any(piece in found for piece in ("jane", "corp", "AKIA", PEM_BODY[:8]))
    assert excerpts(column(text), 109, CONFIG).to_pylist() == ["é" * 90 + " <E> <S> -----BEGIN"]
    assert redacted(text, keeps_all) == text


def test_code_of_the_field_is_kept(shared_data):
    texts = [
        "def project(x, w, b):\n    y = x@w.astype(np.float32) + b\n    return y@w.transpose()\n",
        "    git clone git@github.com:org/repo.git\n    npm i https://cdn.example/npm/chart@latest.min.js\n",
    ]
    field = shared_data / "field" / "code_matmul.jsonl"
    if field.exists():
        texts += [json.loads(line)["text"] for line in field.read_text().splitlines()]
    assert redact(column(*texts), CONFIG)[0].to_pylist() == texts


def test_what_is_found_does_not_depend_on_where_it_stands() -> None:
    finds = [
        ("joe@corp.com", "<E>"),
        ("8.8.80.80", "<4>"),
        ("202-456-1111", "<P>"),
        (AWS, "<S>"),
        (GITHUB, "<S>"),
        (TELEGRAM, "<S>"),
    ]
    for before in range(20):
        for after in range(10):
            for find, replaced in finds:
                left, right = "\n" + "." * before + " ", " " + "." * after
                assert redacted(f"{left}{find}{right}") == f"{left}{replaced}{right}"


def test_names_right_below_a_domain_that_has_none() -> None:
    assert redacted("joe@alt.za joe@corp.za") == "<E> joe@corp.za"


def test_keys_of_aws_in_long_lines_with_other_mentions() -> None:
    key = "aws_secret_key = '" + "a1/+" * 10 + "'"
    for filler in (10, 900, 1100, 2500):
        text = "aws " + "no " * filler + "AWS " + "no " * filler + key + " aws " + "no " * filler
        assert redacted(text) == text.replace("a1/+" * 10, "<S>")
