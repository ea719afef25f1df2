r"""Classes of Unicode code points, as the GPT-2 pattern and NFC need them.

The pattern of GPT-2 (Radford et al. 2019), which GPT-NeoX-20B shares, tells letters (\p{L}), numbers
(\p{N}), white space (\s) and everything else apart. Which code point is what depends on the Unicode version
of the regular expression engine in `tokenizers`, not on Python's, so the table is kept here (run lengths,
compressed) and a test compares every code point with the installed `tokenizers`. `python -m
pipelines.corpus.text.pretokenize` prints the table anew.
"""

import base64
import unicodedata
import zlib

import numpy as np
from tokenizers import Regex, pre_tokenizers

SPACE, LETTER, NUMBER, OTHER = 0, 1, 2, 3
"""Classes of the pattern: the low two bits of a code point's entry."""
COMPOSES = 4
"""Flag: text with this code point may change under NFC (NFC quick check is not Yes, or a combining class)."""
UNASSIGNED = 8
"""Flag: no character in Unicode 14, so that another Unicode version may treat it differently under NFC."""

CODE_POINTS = 0x110000
SURROGATES = (0xD800, 0xE000)


def code_point_classes() -> np.ndarray:
    """The class and flags of every code point: uint8[0x110000]."""
    runs = np.frombuffer(zlib.decompress(base64.b85decode("".join(_TABLE.split()))), dtype="<u4")
    return np.repeat((runs & 15).astype(np.uint8), runs >> 4)


def derive_classes() -> np.ndarray:
    """The same table from the installed `tokenizers` and Python's `unicodedata` (some seconds)."""
    below, above = SURROGATES
    points = np.concatenate([np.arange(below), np.arange(above, CODE_POINTS)])
    text = "".join(map(chr, points))
    table = np.full(CODE_POINTS, OTHER, dtype=np.uint8)
    for value, pattern in ((SPACE, r"\s+"), (LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+")):
        for _, (start, stop) in pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(
            text
        ):
            table[points[start:stop]] = value
    for point in points:
        character = chr(point)
        if unicodedata.category(character) == "Cn":
            table[point] |= UNASSIGNED
        elif unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            table[point] |= COMPOSES
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            table[int(parts[1], 16)] |= COMPOSES
    # Hangul vowels and final consonants compose by rule, not by table (Unicode 3.12).
    table[0x1161:0x1176] |= COMPOSES
    table[0x11A8:0x11C3] |= COMPOSES
    return table


def _pack(table: np.ndarray) -> str:
    starts = np.flatnonzero(np.diff(table.astype(np.int16), prepend=-1))
    lengths = np.diff(starts, append=CODE_POINTS)
    return base64.b85encode(
        zlib.compress(((lengths << 4) | table[starts]).astype("<u4").tobytes(), 9)
    ).decode()


_TABLE = """
c-o~}O=w%$6@K?U+4*tOSkbtuQCmjQ%(#P~pm<6cOrf$ELMsYY%#ekkAbT-0s1y_}Lh+(Frp&^daZCv`-B|8WI;IQ9l+t>o38fUT98<!ORbq
w`vU0pAC5!f)cfR9$bYpvl>Edzp?z`{abI<R0&eKX1ML(gd<f3Sl=mA|ly1I0&(%2m6S|rccFmHvfEaqLJD~J0@x-Q~3k6i}sIHCKXtKW>G8
qq#odvrChR@SVQqq+ai$o;7}imF7%@VrP@Ig+tF=GXZg_|0P#x(c{wT6IDzL$b!kX`$EgUhAwpZ^g1UzsKiaj^%k7=i@mKV|h0ZekKCS<4e4
U6TYh0V~ehY#{NunhM&_q*PY0`hI6I74|_S>#Jlg|x$bcl_dT3d&%Os9b4C`Ac~2*2Sf=xD;@LC2pCvx-V7(fimGN#W8z=km_#MzIpw}_?0Q
)XGc~%AwJhnksldc8mzlCvLyG_@JY!k%8hj{+b2_LOQ=BSPj3{P3efOYaK!+Q_=I_LGZ0DjbNTCjzVv5_h0sciPk!v@Ncw*kw~5`MFeU&mTw
*hlC0%>At4UG2o$RSRpK#OK%%zl(<N0&J^(1kY30cb=~A8Q&PgSPyg6p4JU-%b@C4A#X*{Mj*pQj87V!>$&;)izDP!0zc}5_Wdu?<#BwRq|1
5ZzgCx(fG_o_S;!`5WY~gyRX$bR7lSxdG~+sd3bC*bergz-G-tOmYvZ2%_W@+wgx(hdJ#`=-=LY4`4dgm$WHDjZD4Tc?>Ph8x!^om`0uQUl=
%!};`Xrv(MxG%rI`#<bh4#vEd?K)gqxMqYtmEB0&S!1mauCOKjiM91Ex19SQTcVC*Syj7jEUC;=p~P{_Dp=(W*sIz|J4wK>zZRtUZ@#AYQ`_
yU_*V$4UVryFRx!R{5OJit_C{LoIDc4#+=BUWj*Z%bEc(pknb4YSN|D1f%ZWwkimPwy2{&i<J%4Fr9M_Lws#y|Jcei0`C?#CyO25O_Q@mGm@
qlEhxb|-t72WnQbpK91<!XP$=%jY57&sjZkk4C8^9_J!W8e44vJ($e<IpC?d4n!a*Q2cjtB3v@t1pVU;Qo_9Is@AUIC7rhR-<QOt$;h5MsN*
5&bt{i@>0aOH1&ljf}|aGGfm>e6a+1-{pOskM|{v>6~rI*2W7RuM+=z&f7%R(7dtzwxNmhzZq}M!}fU1V(j(DdTM1Pm+ZqA@57!~0{@=E`#s
<}^+(2({aEI)OnA?GIzN`!I{|yroYzQ1)&;e7Cm2j)a(JGu$;CY9U*PE!^PETw+edue!x{_Vp$9B~2ezy6lFzUL{ge!r?L$7Bc($az!T#htj
+w!H&7nQaDIxB@3HfdS&sX4wOOR`dGeK{fTA~G7H2$i(a_8vGq_0+X&_1<h(EEkJCql}0H)b&0m!)OsPGk6(i34MhYsJ`cxW=RzFPk+A!Lv@
V_C(}mc--1~lfz!4>m!bZbk0|ytF*q1g=)@QGxcH_xN644MxD2#*fkcs_|U{>=KJr!k)^;tOD3o3`85Yvx#i6L>qhq*SfdJF8fNXZzD;EAHO
x!>c3k9j{{qDrCwAN<`YFc|vYlD3t7*a$qKj|I8M<fW{0U;~3dQQi*M!e1?6n9RtU+d_6Jq{C;_-71I57_#cGtx0uS&TdKR}M(W806VH<0o^
Byn@@JjFHV<JqXGahd-WdUo67ZH<qYG3T%*LN1svwMp7TKpkH-e$MkB5Bc~#4I6XxtQG@9(Y^=Zm2He;`z@^b96CsQATjP=p?7}kqJ(s}^Zr
n3huuWv_!#kKXH@ug&ewZ&Coxg;#_uEF1DQbF??oOTEdehrgZIv`P)GCLHuyWlac{%E9PpK5)~e~fteE<57W}l4+iKW5jlqfJF7@RllXH0fg
p(LIX>6-#a7f>YpD1qZK>vB<DW123d|!*ae00vPIbYAzunpBY#v2CH?`eL=oP{GWX$`y#V5`LE;VY)M(ufA@gtX3g9{+C`Or}_H-R1&AkMcF
eV~<VDsGJfz4e><vuW@R#9rTg1iO^&;jy@k1o^2fF`;U*v8%4x5=J_4quaC*T+OhDpjdM3KKM%T$GyW62ziavh1yd(0{k8V4h~E*qHoh*sMT
b3GiLV*CM(D%;+Q1T%@Zm}4v3cF-yK{Q5uXJ3$auc{~>KMJ0P2Jr!b=NxLd>Qpc0qYfjA8mhOAM;p`9RD^>iTozP^MhE{XWzS>h)gb-xVCHh
F)wKDE_|VU+WQFW`vvrI4>rKDY#O%3J<W@-`HPAtW2t$Xz*t&aR)G;0aL+kwoyH!Y32YAY4(G=b2RK%2nY>sq7(eX2ob;T}^}|GLu9K5<a1U
o4ye&CjSFgstj&5eW?lk`O<H2<g>uhuGTevTwj_3Hx=i%Hlk__s#3Ar#ovqnE`15LHtjO5okdf)tB3_SiM_VGn?Q1gh|u^QAGJI>cc+84NuI
%WlQ$N646|Go?#QhoNF?_XVmJ>P}Tshzj5&n?(<6Tcac&colfA*T`YpJh7hJj*DNzDfoDI}7``iX5S~^9f!50LJ(Q>y$9Sb2q3<?O$s?<2b=
NY%7s-^-OQIg<knI{IczYSM70d{AxJim-DUSn@Qkgtwp+!%M<6Zy<)|?21oA1z9v~TJ-#yf+VkeDS0Dpht0<<h_*2hPi3fYv$|v`9c8y)kn7
&Xi_$H!u#WnL5^rk&`%Qx3PFOs8cbL*FijoZk@YgnUc&RP2keb++ta<A>EzH8XeY#JO`MqM_A9uA-P4_JE~&&P59LF~sFbB~*O+p*ZfuF<oV
b<gx2bLQL8Gbg&qM;<?wOmAqyV4tk@gR>sj=()R?&-hNi1#!;c^$()K-oloVeVQYjV1`X2(_B!W|A^*nJNe#JHZ?fg{HKb4ST-XPGk1+2)`u
lOb5C>I=s6qIvPIJ~w0%pf(~0mKo{{-o<u~K^=)@wMvgyl(?{7Kzy@p(rGyah^*l`K>o51A<X74QKa|}yk8rAXRs3kwqK8@OM?7vxb4No(O2
M?U@#b_U94!)3L(ag&}!8v)(<dZ_s>&^$ghFlO=Tfusa0cL`AYKGUtIF*w)KL`1%Uwj7oW-NA-%3#QUkGbZgc7LS#j{<a??Bw~d|Gva_S|vG
d|Bl{6t-|y7r)8fNoZ$ob<X`?H{@r<v?x`?*%CghFe@5~z3E%ssHdFk+pYdaDBX{lXt|N}##J*MY{Yt+L+)(`@@3CA)Xy7y8w3Lr?;tMzM{j
oVLy~Vn*$!_9v<qq&bF|=9elI!k;UpmQUKc;iXA{(}~`R~Su@i?@X%0<xw&wb?lcbIXkS%qx--yq&TA|8k3Oxh<|h7GI+@s{<ropEy3S5dno
F0p;o2*YmE`Q|Q&?7Db9lSq$c67~8bzS))#qxX=Lckz5JmYTGb@x8Y7Q;1W@Urf70vhQuqt%Q3UsNFl6!S9;cAor-;`aym>%y*f=p7TQRyzd
6{VI%kstn;d4KKJJg-Ty!DHU3>9x!(Vd=z7M~G$ZfGJ8k$+^SsD8?bkY=8w&<^DCU1kYnIOlmYKr5j;Sl_#!g3G5noEb8#~DjS26Dp?|w@#U
0r>IczNo)J@Q!d+eT*5%XLyJ<8$)PZScgtP|e71{r`sb`2rdJy=3rzB-5$=N^Pb6n({fn=SEPYWrKQQHQ>?qW!r|2<NCIh=;Zakh=%Wl{$D+
YKjk~Cu`9G&)(`$G@obcA3bk8pSp4iD_>YFtnHV{Z<x99_De-Y%*U<W-gxJHmWS#75@%zF{f_$j;Y#Kw*2b?$GGjhl+dcT-R4AXBui>NdAoR
3-0NY}M7S#J+#m@)nTDO2a{f{#tu?i}L(;riNRQ|x^PIX;o^b!l$-0mc8HpH1tkWjffn=9}|~KkvI#23gvS&+_yQ8vjiceNKuk|CH?SEtl?n
X4plAzx`2quf$hEdKjVjmQY+Bd3+(-`|kz8X`ufDeQ@-u
"""


if __name__ == "__main__":
    packed = _pack(derive_classes())
    print("\n".join(packed[start : start + 108] for start in range(0, len(packed), 108)))
