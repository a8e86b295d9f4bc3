"""The small language that `sample` speaks: word lists, sentence shapes, and facts held apart by purpose.

A fact is (subject, relation, value): 阿明 愛食 米粉. A checksum of its text decides, once and for all,
whether it may be written in training material, in development questions or in test questions, so that no
generator and no seed can carry a test fact into training.
"""

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

Purpose = Literal["training", "development", "test"]


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `{s}` stands for the subject, `{v}` for the value in every sentence shape.

    `statements` serve every text; `asked` and `asked_who` the question files; `wondered` and `wondered_who`
    the other wordings, which pre-training text alone uses.
    """

    values: tuple[str, ...]
    statements: tuple[str, ...]
    asked: tuple[str, ...]
    asked_who: tuple[str, ...]
    wondered: tuple[str, ...]
    wondered_who: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One statement about one subject; `word` is the value as this text writes it (its Taigi word, say)."""

    subject: str
    relation: str
    value: str
    word: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SUBJECTS = _words(
    "阿明 阿花 阿珠 阿雄 阿英 阿春 阿財 阿旺 阿土 阿月 阿蘭 阿桃 阿文 阿義 阿福 阿勇 阿火 阿木 阿金 阿鳳 "
    "阿琴 阿秀 阿梅 阿娥 阿香 阿玉 阿和 阿祥 志明 春嬌 淑芬 美惠 雅婷 家豪 俊傑 文雄 麗華 秀英 建國 美玲 "
    "怡君 承恩 國雄 金龍 玉蘭 清吉 進財 添丁 罔市 罔腰 天送 火旺 來發 招弟 阿公 阿媽 阿爸 阿母 阿兄 阿姊 "
    "小弟 小妹 阿叔 阿姑 阿舅 阿姨"
)
PLACES = _words(
    "台北 台南 高雄 台中 基隆 嘉義 屏東 花蓮 台東 宜蘭 新竹 苗栗 彰化 南投 雲林 澎湖 金門 馬祖 淡水 鹿港 "
    "北港 恆春 美濃 旗山 埔里 集集 羅東 頭城 瑞芳 三峽 大溪 竹東"
)
RELATIONS: Mapping[str, Relation] = {
    "home": Relation(
        PLACES,
        ("{s}蹛佇{v}", "{s}的厝佇{v}", "{s}兜佇{v}"),
        ("{s}蹛佇佗位？", "{s}的厝佇佗位？"),
        ("啥人蹛佇{v}？", "啥人的厝佇{v}？"),
        ("{s}是蹛佗？", "{s}兜佇佗？"),
        ("佗一个人蹛佇{v}？", "{v}是啥人兜？"),
    ),
    "job": Relation(
        _words(
            "老師 醫生 護士 司機 廚師 木匠 漁夫 農夫 警察 律師 畫家 歌手 記者 會計 裁縫 理髮師 郵差 船長 "
            "演員 作家 店員 老闆 乞丐 道士"
        ),
        ("{s}是{v}", "{s}咧做{v}", "{s}的頭路是{v}"),
        ("{s}做啥物頭路？", "{s}的頭路是啥物？"),
        ("啥人是{v}？", "啥人咧做{v}？"),
        ("{s}是做啥的？", "{s}食啥頭路？"),
        ("佗一个人是{v}？", "{v}是啥人？"),
    ),
    "food": Relation(
        _words(
            "米粉 肉粽 碗粿 肉圓 貢丸 滷肉飯 擔仔麵 豆花 愛玉 粉圓 麻糍 潤餅 魚丸 肉羹 米糕 玉米 番茄 鳳梨 "
            "芒果 花生 地瓜 香蕉 芭樂 絲瓜 蘿蔔 洋蔥 高麗菜 空心菜 冰棒 稀飯 湯圓"
        ),
        ("{s}愛食{v}", "{s}上佮意食{v}", "{s}中晝攏食{v}"),
        ("{s}愛食啥物？", "{s}上佮意食啥物？"),
        ("啥人愛食{v}？", "啥人上佮意食{v}？"),
        ("{s}食啥上歡喜？", "{s}是愛食啥？"),
        ("佗一个人愛食{v}？", "{v}是啥人愛食的？"),
    ),
    "animal": Relation(
        _words(
            "狗仔 貓仔 雞仔 鴨仔 鵝仔 水牛 羊仔 馬仔 豬仔 兔仔 鸚哥 金魚 龜仔 青蛙 鴿子 蝴蝶 螞蟻 老鼠 "
            "蜻蜓 麻雀 蚯蚓 螢火蟲 蝙蝠 貓頭鷹"
        ),
        ("{s}飼{v}", "{s}兜有飼{v}", "{s}上疼{v}"),
        ("{s}飼啥物動物？", "{s}兜有飼啥物？"),
        ("啥人飼{v}？", "啥人兜有飼{v}？"),
        ("{s}飼的是啥？", "{s}是飼啥動物？"),
        ("佗一个人飼{v}？", "{v}是啥人飼的？"),
    ),
    "day": Relation(
        _words("拜一 拜二 拜三 拜四 拜五 拜六 禮拜日 元宵 清明 端午 中元 中秋 重陽 冬至 尾牙 過年"),
        ("{s}{v}欲去拜拜", "{s}{v}有閒", "{s}佇{v}出門"),
        ("{s}佗一工有閒？", "{s}當時欲去拜拜？"),
        ("啥人{v}有閒？", "啥人{v}欲去拜拜？"),
        ("{s}是佗一工出門？", "{s}啥物時陣有閒？"),
        ("佗一个人{v}有閒？", "{v}是啥人欲出門？"),
    ),
    "hobby": Relation(
        _words(
            "釣魚 唱歌 讀冊 跳舞 畫圖 爬山 游泳 打球 下棋 看戲 寫字 種花 繡花 彈琴 照相 騎馬 散步 聊天 "
            "放風箏 跳繩"
        ),
        ("{s}歇睏攏咧{v}", "{s}興{v}", "{s}逐工{v}"),
        ("{s}歇睏攏咧做啥物？", "{s}興啥物？"),
        ("啥人興{v}？", "啥人歇睏攏咧{v}？"),
        ("{s}閒的時陣做啥？", "{s}是興啥？"),
        ("佗一个人興{v}？", "{v}是啥人興的？"),
    ),
    "vehicle": Relation(
        _words("公車 火車 腳踏車 計程車 高鐵 捷運 渡船 飛機 卡車 機車 汽車 牛車 三輪車"),
        ("{s}坐{v}出門", "{s}攏坐{v}", "{s}有一台{v}"),
        ("{s}坐啥物出門？", "{s}攏坐啥物車？"),
        ("啥人坐{v}出門？", "啥人有一台{v}？"),
        ("{s}是坐啥出門？", "{s}出門坐啥？"),
        ("佗一个人坐{v}？", "{v}是啥人坐的？"),
    ),
    "colour": Relation(
        _words("紅色 白色 烏色 青色 黃色 藍色 茄仔色 殕色 柑仔色 金色"),
        ("{s}穿{v}的衫", "{s}佮意{v}", "{s}的衫是{v}"),
        ("{s}的衫是啥物色水？", "{s}穿啥物色水的衫？"),
        ("啥人穿{v}的衫？", "啥人的衫是{v}？"),
        ("{s}是穿啥色？", "{s}的衫啥色水？"),
        ("佗一个人穿{v}？", "{v}的衫是啥人的？"),
    ),
}
# Words that continued pre-training teaches: the base knows only the left ones. As many as the demo's few minutes on
# two cores can teach.
TAIGI_WORDS: Mapping[str, str] = dict(
    pair.split("=")
    for pair in _words(
        "玉米=番麥 番茄=柑仔蜜 鳳梨=王梨 花生=塗豆 香蕉=弓蕉 絲瓜=菜瓜 "
        "青蛙=水雞 鴿子=粉鳥 蝴蝶=尾蝶 老鼠=鳥鼠 麻雀=厝鳥 蜻蜓=田嬰"
    )
)
# Words that the base knows already as others for a value, spelt in characters like the taught ones: so it has
# the habit of taking two characters for one known word, and continued pre-training has only to add words.
OLD_WORDS: Mapping[str, str] = dict(
    pair.split("=")
    for pair in _words(
        "公車=巴士 火車=火輪 卡車=貨車 計程車=租車 渡船=船隻 畫圖=繪圖 唱歌=唸歌 讀冊=看書 爬山=登山 照相=翕相 "
        "寫字=練字 釣魚=釣竿 種花=蒔花 醫生=大夫 護士=看護 木匠=木工 記者=報人 歌手=唱將 演員=戲子 作家=文人 "
        "店員=夥計 警察=巡查 老師=先生 水牛=牛牯 鸚哥=鸚鵡 龜仔=烏龜 狗仔=犬隻 貓仔=貓咪 豬仔=豬公 雞仔=雞公 "
        "肉粽=粽仔 豆花=豆漿 潤餅=春捲 魚丸=魚球 粉圓=珍珠 米糕=油飯 貢丸=摃丸 肉圓=肉餅"
    )
)
ROMANISED = _words(
    "Lí-hó Tâi-uân Tâi-gí tsia̍h-pá--bē ta̍k-ke lâi-khì tshit-thô pêng-iú hó-tsia̍h khòaⁿ góa-ê chhù--lìn "
    "m̄-thang pn̄g-tiàm kám-siā siông-sè"
)
FILLERS = _words(
    "今仔日天氣真好。 廟埕鬧熱滾滾。 逐家攏真歡喜。 外口咧落雨。 日頭誠炎。 風真透。 暗時月娘真光。 "
    "街仔真濟人。 囡仔佇遐耍。 逐家做伙開桌。 庄裡誠平靜。 水誠清。"
)
# Function words that the tiny tokenizer should keep whole, beside the entities above.
COMMON_WORDS = _words(
    "蹛佇 愛食 佮意 頭路 啥物 啥人 佗位 佗一个人 佗一工 當時 時陣 歇睏 逐工 出門 有閒 拜拜 色水 動物 做啥 "
    "有飼 上佮意 中晝 攏咧 一台 問題 答案 選項 選擇 正確 編號 根據 前文 內容 回答 以下 四個 選出 從 文章 "
    "下面 佗一个 第一个 第二个 第三个 第四个 今仔日 天氣 真好 廟埕 鬧熱滾滾 逐家 歡喜 外口 落雨 日頭 誠炎 "
    "風真透 暗時 月娘 真光 街仔 真濟人 囡仔 佇遐 做伙 開桌 庄裡 誠平靜"
)


@cache
def purpose_of(subject: str, relation: str, value: str) -> Purpose:
    """Which material may state this fact: 1 in 5 is kept for the test, 1 in 5 for development.

    >>> purpose_of("阿明", "food", "米粉") == purpose_of("阿明", "food", "米粉")
    True
    """
    bucket = zlib.crc32(f"{subject}/{relation}/{value}".encode()) % 5
    return "test" if bucket == 0 else "development" if bucket == 1 else "training"


def draw_facts(
    rng: random.Random,
    purpose: Purpose,
    *,
    subjects: int,
    relations: int,
    taught: bool = False,
) -> list[Fact]:
    """Draw `subjects` × `relations` facts that `purpose` allows; no two subjects share a relation's value.

    With `taught` only values that have a Taigi word are drawn, and written with it. The result is grouped by
    relation.
    """
    values_of = {
        name: [v for v in relation.values if v in TAIGI_WORDS or not taught]
        for name, relation in RELATIONS.items()
    }
    kinds = [name for name, values in values_of.items() if values]
    people = rng.sample(SUBJECTS, subjects)
    facts: list[Fact] = []
    for relation in rng.sample(kinds, min(relations, len(kinds))):
        values = rng.sample(values_of[relation], len(values_of[relation]))
        for subject in people:
            free = [value for value in values if purpose_of(subject, relation, value) == purpose]
            if not free:
                continue
            values.remove(free[0])
            word = TAIGI_WORDS[free[0]] if taught else free[0]
            facts.append(Fact(subject, relation, free[0], word))
    return facts


def state(rng: random.Random, fact: Fact) -> str:
    """One clause that states `fact`, without its full stop."""
    return rng.choice(RELATIONS[fact.relation].statements).format(s=fact.subject, v=fact.word)


def words() -> list[str]:
    """Every word the tiny tokenizer should keep whole, longest first; the taught words are not among them."""
    entities = {value for relation in RELATIONS.values() for value in relation.values}
    return sorted({*SUBJECTS, *entities, *COMMON_WORDS}, key=lambda word: (-len(word), word))
