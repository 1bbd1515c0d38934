"""Files with a real C2PA manifest, signed by people made up for a test."""

import datetime
from pathlib import Path

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MADE_BY_A_MODEL = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
)


def _name(common: str) -> x509.Name:
    parts = {NameOID.COMMON_NAME: common, NameOID.ORGANIZATION_NAME: "A test"}
    return x509.Name([x509.NameAttribute(*part) for part in parts.items()])


def _usage(*, ca: bool) -> x509.KeyUsage:
    names = (
        *("content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        **dict.fromkeys(names, False),
    )


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key
) -> x509.Certificate:
    now, ca = datetime.datetime.now(datetime.UTC), subject == issuer
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not ca:
        use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(use, critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def sign(source: Path, out: Path, *, title: str = "A made film") -> Path:
    """A copy of a file with a manifest, signed by "A made signer"."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("A made root", root_key, "A made root", root_key)
    own = _certificate("A made signer", key, "A made root", root_key)
    pem = serialization.Encoding.PEM
    chain = b"".join(each.public_bytes(pem) for each in (own, root))
    done = {"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL}
    manifest = {
        "claim_generator_info": [{"name": "made_camera", "version": "1.2"}],
        "title": title,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [done]}}],
    }

    def signature(data: bytes) -> bytes:
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    with (
        c2pa.Context() as context,
        c2pa.Signer.from_callback(
            signature, c2pa.C2paSigningAlg.ES256, chain.decode(), None
        ) as signer,
        c2pa.Builder(manifest, context) as builder,
    ):
        builder.sign_file(source, out, signer)
    return out
